"""The order of the leave-taking, and that nobody can hold it up."""

import asyncio

import pytest

from agent.supervisor import departure


class Parts:
    """Everyone who takes part, writing down what was asked of them."""

    def __init__(self, *, told: bool = True, hangs: str = "") -> None:
        self.said: list[str] = []
        self.flow = self
        self._told = told
        self._hangs = hangs

    async def _do(self, what: str) -> None:
        self.said.append(what)
        if what.partition(" ")[0] == self._hangs:
            await asyncio.Event().wait()

    async def keep(self) -> None:
        await self._do("keep")

    async def settle(self, timeout_s: float) -> bool:
        await self._do(f"settle {timeout_s:g}")
        return self._told

    async def drain(self, timeout_s: float) -> None:
        await self._do(f"workers {timeout_s:g}")

    def leave(self) -> None:
        self.said.append("gone")

    def announce(self) -> None:
        self.said.append("draining")

    async def take_leave(self) -> list[str]:
        await departure.leave(
            self, self, self, drain=self.announce, timeout_s=5.0  # type: ignore[arg-type]
        )  # fmt: skip
        return self.said


IN_ORDER = ["keep", "draining", "settle 2", "workers 5", "gone", "settle 1"]


async def test_peers_stop_calling_before_workers_end_and_the_instances_go_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departure, "PEERS_LEARN_S", 0.0)
    assert await Parts().take_leave() == IN_ORDER


async def test_peers_that_cannot_be_told_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departure, "PEERS_LEARN_S", 3600.0)
    assert await Parts(told=False).take_leave() == IN_ORDER


@pytest.mark.parametrize("hangs", ["keep", "settle", "workers"])
async def test_who_does_not_answer_ends_it_at_its_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hangs: str
) -> None:
    monkeypatch.setattr(departure, "END_S", 0.05)
    monkeypatch.setattr(departure, "PEERS_LEARN_S", 0.0)
    said = await Parts(hangs=hangs).take_leave()
    assert said == IN_ORDER[: [item.partition(" ")[0] for item in IN_ORDER].index(hangs) + 1]
    assert "the end took too long" in caplog.text

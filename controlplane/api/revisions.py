"""How far a revision has come among the proxies of all replicas, and waiting for it.

Owns:   this replica's part, asking the others, joining the parts; what ends a wait, and the outcome.
Not:    counting on one replica (distribution.ledger), how an outcome is told (exchange, control_service).
Source: decision 16; design section 2 ("a proxy has revision R when nothing that R changes for it is unacknowledged").

    wait -> acknowledged  every replica answers, and no proxy is still to answer or refuses
         -> rejected      a proxy refuses; the others get `_AFTER_REJECTION_S` more, so that all that refuse are named
         -> timeout       the time is over: who is pending, or which replica is silent, is in the state

A dead replica is silent until its lease ends (15 s); its proxies are by then on others, which answer for them.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.api import state_json, state_local
from controlplane.api.exchange import duration_s
from controlplane.api.peers import Peers, partial
from controlplane.api.view import Dependencies

Json = dict[str, Any]

MAX_WAIT_S = 60.0
DEFAULT_WAIT_S = 30.0
ACKNOWLEDGED, REJECTED, TIMEOUT = "acknowledged", "rejected", "timeout"
_LOOK_S = 0.05
_ROUND_S = 1.0  # how long one question to the other replicas lasts: a refusal elsewhere is seen after that
_AFTER_REJECTION_S = 1.0


@dataclass(frozen=True, slots=True)
class Waited:
    """How a wait ended. `state`: as /mesh/v1/revisions/{revision} shows it."""

    outcome: str
    state: Json

    def as_json(self) -> Json:
        return {"outcome": self.outcome, **self.state}

    def lines(self) -> list[str]:
        """What keeps the revision from being everywhere, a line for each proxy and silent replica."""
        refused = [
            f"{item['node']} refuses {why['name']}: {why['reason']}"
            for item in self.state["rejected"]
            for why in item["reasons"]
        ]
        said = {item["node"]: item for item in reversed(self.state["waits_for"])}
        pending = [f"{node} is pending{_why(said.get(node))}" for node in self.state["pending"]]
        silent = [f"replica {item['replica']} is silent: {item['reason']}" for item in self.state.get("silent", ())]
        return [*refused, *pending, *silent]


def _why(item: Mapping[str, str] | None) -> str:
    if item is None:
        return ""
    return ": " + " ".join(part for part in (item["type"], item["name"], "waits for", item["waits_for"]) if part)


def wait_s(text: str | None) -> float:
    """Seconds of a `wait` parameter, at most a minute; 0 = none was asked for. Raises UNREADABLE."""
    if text is None:
        return 0.0
    return min(duration_s(text, subject="wait"), MAX_WAIT_S) if text else DEFAULT_WAIT_S


class Revisions:
    """Answers for one replica."""

    def __init__(self, dependencies: Dependencies, peers: Peers) -> None:
        self._view = dependencies.view
        self._clock = dependencies.clock
        self._peers = peers

    async def state(self, revision: int, *, wait_s: float = 0.0, authorization: str = "", local: bool = False) -> Json:
        """Who has it, who is pending and why, who refuses it; waits until no proxy is pending, at most `wait_s`."""
        if local:
            return await self._settled(revision, wait_s)
        path, query = f"/mesh/v1/revisions/{revision}", {"wait": f"{wait_s:.3f}s"} if wait_s else {}
        mine, answers = await asyncio.gather(
            self._settled(revision, wait_s),
            self._peers.ask(self._view.peers(), path, query, authorization, wait_s=wait_s),
        )
        parts = [mine, *(value for value in answers.values.values() if value is not None)]
        return {**state_local.merged_revision(parts), **partial(answers)}

    async def wait(self, revision: int, seconds: float, authorization: str = "") -> Waited:
        """Until every proxy that it touches has acknowledged, or one refuses, or `seconds` are over."""
        until = self._clock.monotonic() + seconds
        while True:
            left = max(until - self._clock.monotonic(), 0.0)
            state = await self.state(revision, wait_s=min(left, _ROUND_S), authorization=authorization)
            if state["settled"] and not state["partial"]:
                return Waited(REJECTED if state["rejected"] else ACKNOWLEDGED, state)
            now = self._clock.monotonic()
            if now >= until:
                return Waited(REJECTED if state["rejected"] else TIMEOUT, state)
            if state["rejected"]:
                until = min(until, now + _AFTER_REJECTION_S)
            if state["partial"]:
                await asyncio.sleep(min(_LOOK_S, until - now))  # a replica that refuses to talk answers at once

    async def _settled(self, revision: int, wait_s: float) -> Json:
        """This replica's part; waits until no proxy is still to answer, at most `wait_s`."""
        ledger = self._view.ledger()
        until = self._clock.monotonic() + wait_s
        while True:
            left = until - self._clock.monotonic()
            if left <= 0 or ledger.settled(revision):
                return state_json.revision_json(ledger.revision_status(revision), ledger.published)
            await asyncio.sleep(min(_LOOK_S, left))

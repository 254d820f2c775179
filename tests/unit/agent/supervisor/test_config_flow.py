"""What is accepted reaches the workers once and the disk soon."""

from pathlib import Path

from agent.ipc.messages import CLUSTER, LOAD_ASSIGNMENT
from agent.model.cluster import Cluster, Endpoint, LoadAssignment
from agent.supervisor import config_flow
from agent.supervisor.config_flow import ConfigFlow
from agent.xds import known_good
from agent.xds.resources import Decoded, Held
from agent.xds.warming import WARM_WITHIN_S, Tables
from mesh.xds import type_url
from tests.support.clock import ManualClock

NODE = "n1"


def cluster(name: str, version: str = "1") -> Held:
    """An EDS cluster whose endpoints have its name."""
    value = Cluster(name=name, eds_name=name, alt_stat_name=version)
    return Held(
        type_url=type_url.CLUSTER, name=name, version=version, body=b"c" + version.encode(),
        decoded=Decoded(values=((CLUSTER, name, value),)),
    )  # fmt: skip


def assignment(name: str, *addresses: str) -> Held:
    endpoints = tuple(Endpoint(address=address, port=80) for address in addresses)
    value = LoadAssignment(cluster=name, endpoints=endpoints)
    return Held(
        type_url=type_url.CLUSTER_LOAD_ASSIGNMENT, name=name, version="1", body=",".join(addresses).encode(),
        decoded=Decoded(values=((LOAD_ASSIGNMENT, name, value),)),
    )  # fmt: skip


class Session:
    """What ConfigFlow reads of agent.xds.session.AdsSession."""

    def __init__(self, *held: Held) -> None:
        self.held = {(item.type_url, item.name): item for item in held}

    def take(self, *items: Held) -> None:
        self.held.update({(item.type_url, item.name): item for item in items})

    def all_held(self) -> tuple[Held, ...]:
        return tuple(self.held.values())

    def absent(self) -> dict[tuple[str, str], str]:
        return {}


class Flow:
    """A flow with what it published."""

    def __init__(self, state_dir: Path, *held: Held) -> None:
        self.clock = ManualClock()
        self.session = Session(*held)
        self.published: list[Tables] = []
        self.told: list[Tables] = []
        self.state_dir = state_dir
        self.flow = ConfigFlow(
            self.session,  # type: ignore[arg-type]
            self,
            state_dir=state_dir,
            node=NODE,
            clock=self.clock,
            on_published=self.told.append,
        )

    def publish(self, tables: Tables) -> None:
        self.published.append(tables)

    def on_disk(self) -> list[bytes]:
        """The bodies that the file holds."""
        loaded = known_good.load(self.state_dir, NODE, lambda url, name, body: Decoded(values=()))
        assert loaded.problems == ()
        return sorted(item.body for item in loaded.resources)


def test_what_the_disk_held_is_served_before_anything_comes(tmp_path: Path) -> None:
    flow = Flow(tmp_path, cluster("a"), assignment("a", "10.0.0.1"))
    flow.flow.begin()
    (tables,) = flow.published
    assert set(tables[CLUSTER]) == {"a"}
    found = flow.flow.assignment("a")
    assert found is not None
    assert [host.address for host in found.endpoints] == ["10.0.0.1"]
    assert flow.told == flow.published


async def test_a_cluster_waits_for_its_endpoints_and_the_wait_ends(tmp_path: Path) -> None:
    flow = Flow(tmp_path)
    flow.flow.begin()
    flow.session.take(cluster("a"))
    flow.flow.step()
    assert flow.published == [], "nothing that is served has changed"
    assert flow.flow.waiting == ("cluster a waits for its endpoints",)
    flow.clock.advance(WARM_WITHIN_S + 1)
    flow.flow.tick()
    assert set(flow.published[-1][CLUSTER]) == {"a"}
    assert flow.flow.waiting == ()
    await flow.flow.close()


def test_only_differences_are_published(tmp_path: Path) -> None:
    flow = Flow(tmp_path, cluster("a"), assignment("a", "10.0.0.1"))
    flow.flow.begin()
    flow.flow.step()
    assert len(flow.published) == 1
    flow.session.take(assignment("a", "10.0.0.2"))
    flow.flow.step()
    assert len(flow.published) == 2
    assert flow.published[0][CLUSTER]["a"] is flow.published[1][CLUSTER]["a"]


def test_endpoints_of_unknown_and_static_clusters(tmp_path: Path) -> None:
    inline = LoadAssignment(cluster="s", endpoints=(Endpoint(address="127.0.0.1", port=1),))
    held = Held(
        type_url=type_url.CLUSTER, name="s", version="1", body=b"",
        decoded=Decoded(values=((CLUSTER, "s", Cluster(name="s", static=inline)),)),
    )  # fmt: skip
    flow = Flow(tmp_path, held)
    flow.flow.begin()
    assert flow.flow.assignment("s") is inline
    assert flow.flow.assignment("other") is None


async def test_the_disk_follows_at_a_bounded_pace(tmp_path: Path) -> None:
    flow = Flow(tmp_path)
    flow.flow.begin()
    flow.flow.tick()
    assert not (tmp_path / known_good.FILE).exists(), "nothing has changed"
    flow.session.take(cluster("a"), assignment("a", "10.0.0.1"))
    flow.flow.step()
    flow.flow.tick()
    assert flow.flow._saving is not None
    await flow.flow._saving
    assert flow.on_disk() == [b"10.0.0.1", b"c1"]
    first = flow.flow._saving
    flow.session.take(assignment("a", "10.0.0.2"))
    flow.flow.step()
    flow.flow.tick()
    assert flow.flow._saving is first, "the second write waits"
    flow.clock.advance(config_flow.SAVE_EVERY_S)
    flow.flow.tick()
    await flow.flow._saving
    assert flow.on_disk() == [b"10.0.0.2", b"c1"]


async def test_the_end_writes_what_is_not_written_yet(tmp_path: Path) -> None:
    flow = Flow(tmp_path)
    flow.flow.begin()
    flow.session.take(cluster("a"), assignment("a", "10.0.0.1"))
    flow.flow.step()
    await flow.flow.close()
    assert flow.on_disk() == [b"10.0.0.1", b"c1"]


async def test_what_is_kept_for_the_next_start_knows_nothing_of_the_agents_own_end(tmp_path: Path) -> None:
    flow = Flow(tmp_path)
    flow.flow.begin()
    flow.session.take(cluster("a"), assignment("a", "10.0.0.1"))
    flow.flow.step()
    await flow.flow.keep()
    flow.session.take(assignment("a", "10.0.0.2"))
    flow.flow.step()
    flow.clock.advance(config_flow.SAVE_EVERY_S)
    flow.flow.tick()
    await flow.flow.close()
    assert flow.on_disk() == [b"10.0.0.1", b"c1"]
    found = flow.flow.assignment("a")
    assert found is not None
    assert [host.address for host in found.endpoints] == ["10.0.0.2"], "it is served all the same"


async def test_a_disk_that_refuses_is_shown_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    flow = Flow(folder)
    flow.flow.begin()
    flow.session.take(cluster("a"), assignment("a", "10.0.0.1"))
    flow.flow.step()
    await flow.flow.close()
    assert "No such file or directory" in flow.flow.save_error
    folder.mkdir()
    flow.clock.advance(config_flow.SAVE_EVERY_S)
    flow.flow.tick()
    assert flow.flow._saving is not None
    await flow.flow._saving
    assert flow.flow.save_error == ""
    assert flow.on_disk() == [b"10.0.0.1", b"c1"]

"""With what the node's ADS session begins."""

from pathlib import Path

import pytest
from envoy.config.core.v3.base_pb2 import Node

from agent import settings
from agent.ipc.messages import CLUSTER
from agent.model.cluster import Cluster
from agent.supervisor.ads_session import make_session, owner
from agent.xds import known_good
from agent.xds.delta import DeltaSession
from agent.xds.resources import Decoded, Held
from agent.xds.session import AdsSession
from agent.xds.sotw import SotwSession
from mesh.xds import type_url
from mesh.xds.names import TRUST_SECRET


def made(folder: Path, **control_plane: str) -> settings.Settings:
    return settings.Settings(
        node=settings.NodeSettings(name="n1", address="127.0.0.1"),
        control_plane=settings.ControlPlaneSettings(**{"address": "cp:18000", **control_plane}),  # type: ignore[arg-type]
        proxy=settings.ProxySettings(state_dir=str(folder)),
    )


def decode(url: str, name: str, body: bytes) -> Decoded | str:
    return "bad" if body == b"bad" else Decoded(values=((CLUSTER, name, Cluster(name=name)),))


def saved(folder: Path, of: str, **bodies: bytes) -> None:
    items = [
        Held(type_url=type_url.CLUSTER, name=name, version="1", body=body, decoded=Decoded(values=()))
        for name, body in bodies.items()
    ]
    known_good.save(folder, of, items)


def session(given: settings.Settings) -> AdsSession:
    return make_session(given, Node(id="n1"), decode, lambda _: "")


@pytest.mark.parametrize(("protocol", "cls"), [("delta", DeltaSession), ("sotw", SotwSession)])
def test_the_protocol_is_that_of_the_settings(tmp_path: Path, protocol: str, cls: type) -> None:
    assert type(session(made(tmp_path, protocol=protocol))) is cls


def test_it_holds_the_last_known_good_without_what_is_bad(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, "n1", good=b"", wrong=b"bad")
    assert list(session(made(tmp_path)).held(type_url.CLUSTER)) == ["good"]
    (said,) = [item for item in caplog.records if item.message == "a part of the last known good is not used"]
    assert said.levelname == "WARNING"


def test_what_one_foreign_server_said_is_not_asked_of_another(tmp_path: Path) -> None:
    mine, other = made(tmp_path, mode="xds", address="a:1"), made(tmp_path, mode="xds", address="b:1")
    assert [owner(item) for item in (made(tmp_path), mine, other)] == ["n1", "n1 at a:1", "n1 at b:1"]
    saved(tmp_path, owner(mine), good=b"")
    assert list(session(mine).held(type_url.CLUSTER)) == ["good"]
    assert not session(other).held(type_url.CLUSTER)
    assert not session(made(tmp_path)).held(type_url.CLUSTER)


@pytest.mark.parametrize(("mode", "asked"), [("mesh", [TRUST_SECRET]), ("xds", [])])
def test_only_ours_is_asked_for_the_meshs_roots(tmp_path: Path, mode: str, asked: list[str]) -> None:
    requests = session(made(tmp_path, mode=mode)).connected(0.0)
    names = [
        name
        for item in requests
        if item.type_url == type_url.SECRET
        for name in item.resource_names_subscribe  # type: ignore[union-attr]
    ]
    assert names == asked

"""Frames: every class of the vocabulary is listed, round trips are exact, damage is refused and runs nothing."""

import dataclasses
import enum
import importlib
import pickle
import pkgutil
import struct
import zlib

import pytest

import agent.model
from agent.ipc import frames, messages
from agent.ipc.frames import FrameError, decode, encode
from agent.model.circuit_breaker import Phase
from agent.model.cluster import Cluster, Endpoint, HashTable, LoadAssignment, OutlierDetection, TransportSocket
from agent.model.ext_authz import (
    Change,
    CheckAnswer,
    CheckPeer,
    CheckQuestion,
    CheckVerdict,
    HeaderChange,
)
from agent.model.listener import Direction, FilterChain, HttpConnectionManager, Listener
from agent.model.rate_limit import LimitAnswer, LimitQuestion, LimitState, LimitVerdict
from agent.model.route import Forward, PathKind, Route, RouteMatch, VirtualHost, WeightedCluster
from agent.model.tls import DownstreamTls, KeyPair, UpstreamTls
from mesh.vocabulary import HealthStatus, Locality

CHECK_QUESTION = CheckQuestion(
    number=7,
    cluster="authz",
    identity="spiffe://cluster.local/ns/a/sa/b",
    authority="authz",
    call_headers=(("x-from", "mesh"),),
    timeout_s=0.5,
    source=CheckPeer(address="127.0.0.1:40000", principal=b"spiffe://x", certificate="-----BEGIN"),
    destination=CheckPeer(address="127.0.0.1:80"),
    request_id="1",
    time_s=1.5,
    method=b"GET",
    scheme=b"http",
    host=b"a",
    path=b"/p",
    protocol="HTTP/1.1",
    headers=((b":path", b"/p"), (b"x", b"1,2")),
    size=4,
    body=b"\xffody",
    as_bytes=True,
    context=(("a", "b"),),
    metadata={"envoy.filters.http.jwt_authn": {"payload": {"sub": "me", "groups": ["a", 1.5, None, True]}}},
)
CHECK_ANSWER = CheckAnswer(
    number=7,
    verdict=CheckVerdict.DENIED,
    status=401,
    body=b"no",
    answer=(HeaderChange(b"x", b"1", Change.SET),),
    removed=(b"cookie",),
    query=((b"a", b"b"),),
    metadata={"a": [1.0]},
)
LISTENER = Listener(
    name="inbound_127.0.0.1_20000",
    address="127.0.0.1",
    port=20000,
    direction=Direction.INBOUND,
    filter_chains=(
        FilterChain(
            name="tls",
            transport="tls",
            tls=DownstreamTls(identity="spiffe://cluster.local/ns/a/sa/b", peer_ids=frozenset({"spiffe://x"})),
            network=HttpConnectionManager(stat_prefix="in", route_config="r", upgrades=frozenset({"websocket"})),
        ),
    ),
)
VIRTUAL_HOST = VirtualHost(
    name="r/v",
    domains=("a.example", "*"),
    routes=(
        Route(
            name="x",
            match=RouteMatch(path_kind=PathKind.PREFIX, path="/"),
            action=Forward(
                clusters=(WeightedCluster(cluster="a", weight=90), WeightedCluster(cluster="b", weight=10)),
                total_weight=100,
            ),
        ),
    ),
)
CLUSTER = Cluster(
    name="c",
    eds_name="c",
    outlier_detection=OutlierDetection(interval_s=1.5),
    transport_sockets=(TransportSocket(name="t", match=(("tlsMode", "gossamer"),), tls=UpstreamTls()),),
)
ASSIGNMENT = LoadAssignment(
    cluster="c",
    endpoints=(
        Endpoint(address="127.0.0.1", port=1, health=HealthStatus.DEGRADED, locality=Locality("r", "z")),
        Endpoint(address="::1", port=2, transport=(("tlsMode", "gossamer"),)),
    ),
)
LIMIT_STATE = LimitState(name="a/b/c", requests=5, window_s=60, remaining=0, reset_s=3)
EXAMPLES = (
    messages.Welcome(slot=1, slots=2, node="n", shared_bytes=4096),
    messages.Put(messages.LISTENER, LISTENER.name, LISTENER),
    messages.Put(messages.VIRTUAL_HOST, VIRTUAL_HOST.name, VIRTUAL_HOST),
    messages.Put(messages.CLUSTER, CLUSTER.name, CLUSTER),
    messages.Put(messages.LOAD_ASSIGNMENT, "c", ASSIGNMENT),
    messages.Remove(messages.CLUSTER, "c"),
    messages.Commit(7),
    messages.AddListener("l"),
    messages.Identities((KeyPair(identity="i", chain_pem=b"c", key_pem=b"k"),), b"roots"),
    messages.HostState("c", "127.0.0.1:1", True),
    messages.HashTables("c", (HashTable(priority=0, hosts=("127.0.0.1:1",), ring=True, entries=9),)),
    messages.BreakerState("default/c", "spiffe://x", Phase.HALF_OPEN, 7),
    messages.BreakerGone("default/c"),
    messages.BreakerNews("default/c", "", 7, b"\x00\x01", begun=True, refused=2, fallbacks=1),
    messages.Cells("c", 3),
    messages.TokenMemory(1, 2),
    messages.CountMemory(1, 2),
    messages.LimitAnswers((LimitAnswer(7, LimitVerdict.OVER, (LIMIT_STATE,), ((b"retry-after", b"3"),)),)),
    messages.LimitQuestions((LimitQuestion(7, "gossamer", ((("limit", "a/b/c"),),), 0.02),)),
    messages.CheckAnswers((CHECK_ANSWER,)),
    messages.CheckQuestions((CHECK_QUESTION,), (3,)),
    messages.Ping(1),
    messages.Drain(5.0),
    messages.Ready(42),
    messages.Committed(7, ("problem",)),
    messages.Pong(1, 0.25),
    messages.EjectRequest("c", "127.0.0.1:1", "consecutive_5xx", 5, 503),
    messages.StatsDelta({"a": 1}, {"b": -2}, {"h": (0, 1)}, {"h": 1.5}, (("c", "h", 1, 1, 0, 0),), (("c", "h", 1),)),
    messages.Drained(),
)


# What the supervisor tells the control plane; no worker hears of it.
NOT_FOR_WORKERS = frozenset({"reports"})


def _all_model_classes() -> set[type]:
    found: set[type] = set()
    for info in pkgutil.iter_modules(agent.model.__path__):
        if info.name in NOT_FOR_WORKERS:
            continue
        module = importlib.import_module(f"agent.model.{info.name}")
        found |= {
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and value.__module__ == module.__name__
            and (dataclasses.is_dataclass(value) or issubclass(value, enum.Enum))
        }
    return found


def _frame(body: bytes) -> bytes:
    return frames.HEADER.pack(len(body), zlib.crc32(body), 0) + body


def test_every_class_of_the_model_and_of_the_messages_may_travel() -> None:
    assert _all_model_classes() <= set(frames.CLASSES)
    told = {v for v in vars(messages).values() if dataclasses.is_dataclass(v) and v.__module__ == messages.__name__}
    assert told == set(frames.MESSAGES)
    assert {type(example) for example in EXAMPLES} == set(frames.MESSAGES)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_what_is_written_is_read_back(message: object) -> None:
    back = decode(encode(message))  # type: ignore[arg-type]
    assert back == message
    assert type(back) is type(message)


def test_secrets_travel_but_do_not_print() -> None:
    back = decode(encode(EXAMPLES[8]))  # type: ignore[arg-type]
    assert back.key_pairs[0].key_pem == b"k"
    assert "b'k'" not in repr(back)


def test_values_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(FrameError, match="not part of the vocabulary"):
        encode("text")  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="not part of the vocabulary"):
        encode(messages.Put("cluster", "c", struct.Struct("I")))  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="not part of the vocabulary"):
        encode(messages.Put("cluster", "c", print))  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="not part of the vocabulary"):
        encode(messages.Put("cluster", "c", dict))  # type: ignore[arg-type]


def test_a_body_above_the_limit_is_not_sent_and_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_BODY_BYTES", 64)
    with pytest.raises(FrameError, match="at most 64"):
        encode(messages.Remove("cluster", "c" * 100))
    with pytest.raises(FrameError, match="above the limits"):
        frames.header_of(frames.HEADER.pack(65, 0, 0))


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize(
    "body",
    [
        pickle.dumps(_Bomb()),
        pickle.dumps(exec),
        pickle.dumps(frames.encode),
        pickle.dumps(["not", "a", "message"]),
        pickle.dumps(None),
        b"cbuiltins\nexec\n(Vprint(1)\ntR.",
        b"cos\nsystem\n(Vtrue\ntR.",
        b"cagent.ipc.frames\nbuild\n(I9999\ntR.",
        b"cagent.ipc.frames\nbuild\n(I2\nVonly one\ntR.",
        b"cagent.ipc.frames\nbuild\n(I-1\ntR.",
        b"cagent.ipc.frames\nio\n.",
        b"Pid\n.",
        b"",
        b".",
        encode(messages.Ping(1))[frames.HEADER.size :] + b"tail",
    ],
)
def test_a_body_that_is_not_ours_raises_and_runs_nothing(body: bytes) -> None:
    with pytest.raises(FrameError):
        decode(_frame(body))


def test_every_truncation_and_every_flipped_byte_is_refused() -> None:
    frame = encode(EXAMPLES[1])  # type: ignore[arg-type]
    for cut in range(len(frame)):
        with pytest.raises(FrameError):
            decode(frame[:cut])
    for place in range(len(frame)):
        if place == frames.HEADER.size - 1:
            continue  # the number of descriptors is checked against those that came, by the channel
        damaged = bytearray(frame)
        damaged[place] ^= 0x41
        with pytest.raises(FrameError):
            decode(bytes(damaged))

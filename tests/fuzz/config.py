"""Fuzz targets of what a control plane tells an agent, and a supervisor its workers.

Invariants: any bytes of a resource are taken, or refused with a reason; what is taken travels to a worker and is used
there without a complaint. Any response on a stream is answered, or is no message. Any frame is ours or a FrameError.
"""

import pickletools
import zlib

from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from google.protobuf.message import DecodeError

from agent.config.decode import decode_whole
from agent.config.fields import Rejected
from agent.ipc import frames, messages
from agent.ipc.frames import FrameError
from agent.xds.decoding import decode_resource
from agent.xds.delta import DeltaSession
from agent.xds.session import MAX_REASON
from agent.xds.sotw import SotwSession
from mesh.xds import type_url
from mesh.xds.nack import rejected_names
from tests.fuzz.target import Target
from tests.support import agent_resources
from tests.unit.agent.config.test_decode import BODIES, URLS, assert_usable

_NAMES = ("a", "c", "l", "r", "r/h", "")
_SPECS = (
    ("cds", "a=1>a"), ("cds", "a=1!>a"), ("eds", "a=1"), ("lds", "a=1>a,b"), ("rds", "a=1*>a"), ("rds", "a=1>b"),
    ("vhds", "a/b=1>a"),
)  # fmt: skip


def _resources(data: bytes) -> None:
    """The first byte says which type, the second which name; a name that the message has of itself fits too."""
    if len(data) < 2:
        return
    url, body = URLS[data[0] % len(URLS)], data[2:]
    for name in {_NAMES[data[1] % len(_NAMES)], _own_name(body)}:
        found = decode_whole(url, name, body)
        assert found == decode_whole(url, name, body)
        if isinstance(found, Rejected):
            assert found.reason
            str(found).encode()
        else:
            assert_usable(url, name, found)


def _own_name(body: bytes) -> str:
    """What the first field of a message says when it is a short text: for most types, its name."""
    if body[:1] != b"\n" or len(body) < 2:
        return ""
    return body[2 : 2 + body[1]].decode("utf-8", "ignore")


def _resource_seeds() -> list[bytes]:
    return [bytes((URLS.index(url), 0)) + body for url, _, body in BODIES if len(body) < 4096]


def _responses(data: bytes) -> None:
    """Responses behind each other, each behind two bytes that are its length, to a session of either protocol."""
    for session in (DeltaSession(Node(id="n"), decode_resource), SotwSession(Node(id="n"), decode_resource)):
        session.connected(0.0)
        now = 0.0
        for body in _split(data[1:]):
            kind = DeltaDiscoveryResponse if isinstance(session, DeltaSession) else DiscoveryResponse
            try:
                response = kind.FromString(body)
            except DecodeError:
                response = None
            try:
                outcome = session.received(body, now)
            except DecodeError:
                assert response is None
                break
            assert response is not None
            now += 10.0  # a refusal that is repeated is told later
            requests = (*outcome.requests, *session.on_time(now).requests)
            answers = [one for one in requests if one.response_nonce and one.response_nonce == response.nonce]
            assert len(answers) >= bool(response.nonce)
            for one in answers:
                one.SerializeToString()
                assert all(len(text) <= MAX_REASON for text in rejected_names(one.error_detail.details).values())
        session.disconnected()
        for request in session.connected(now):
            request.SerializeToString()


def _split(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= 2 and len(found) < 8:
        size = int.from_bytes(data[:2], "big")
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return found


def _response_seeds() -> list[bytes]:
    found = []
    for short, spec in _SPECS:
        url, body = agent_resources.URLS[short], agent_resources.body_of(short, spec)
        name, version, _ = agent_resources.fields_of(short, spec)
        delta = DeltaDiscoveryResponse(type_url=url, nonce="1", removed_resources=["gone"])
        added = delta.resources.add(name=name, version=version)
        added.ttl.FromSeconds(5)
        added.resource.type_url, added.resource.value = url, body
        sotw = DiscoveryResponse(type_url=url, nonce="1", version_info="1")
        sotw.resources.add(type_url=url, value=body)
        for message in (delta, sotw):
            raw = message.SerializeToString()
            found.append(b"\x00" + (len(raw).to_bytes(2, "big") + raw) * 2)
    return found


def _frames(data: bytes) -> None:
    for body in (data, data[frames.HEADER.size :]):
        if _numbers_its_memo(body):
            continue
        try:
            message = frames.decode_body(body, zlib.crc32(body))
        except FrameError:
            continue
        assert type(message) in frames.MESSAGES
    try:
        length, _, descriptors = frames.header_of(data)
    except FrameError:
        return
    assert length <= frames.MAX_BODY_BYTES
    assert descriptors <= frames.MAX_DESCRIPTORS


def _numbers_its_memo(body: bytes) -> bool:
    """Opcodes that our writer never uses, and that let the reader reserve memory for any number of entries.

    The checksum is right in this target as it is for no accident, and the socket pair is the agent's own.
    """
    try:
        found = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(body)]
    except ValueError:  # the reader may get further
        return b"p" in body or b"r" in body
    return any(name in ("PUT", "LONG_BINPUT") and argument > len(body) for name, argument in found)


def _frame_seeds() -> list[bytes]:
    values = [agent_resources.value(short, spec) for short, spec in _SPECS if "!" not in spec]
    puts = [messages.Put(messages.CLUSTER, "a", value) for value in values]
    others = [messages.Commit(7), messages.Cells("a", 1), messages.Ping(3), messages.Drained(), messages.Ready(1)]
    return [frames.encode(message)[frames.HEADER.size :] for message in (*puts, *others)]


TARGETS = (
    Target(name="resources", check=_resources, seeds=_resource_seeds, pieces=tuple(url.encode() for url in URLS)),
    Target(name="responses", check=_responses, seeds=_response_seeds, pieces=(type_url.CLUSTER.encode(),)),
    Target(name="frames", check=_frames, seeds=_frame_seeds, pieces=(b"build", b"agent.ipc.frames", b"os", b"system")),
)

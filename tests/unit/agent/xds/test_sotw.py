"""The SotW session against random servers; the transcripts (tests/transcripts/agent_sotw) show it rule by rule."""

import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.xds.decoding import decode_resource
from agent.xds.session import Request
from agent.xds.sotw import SotwSession
from mesh.xds import type_url
from tests.support import agent_resources
from tests.support.depth import examples

NAMES = ("a", "b")
FULL = {type_url.CLUSTER, type_url.LISTENER}
CONTENTS = st.sampled_from(["1", "2", "1!"])
TARGETS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True).map(",".join)
ITEM = st.one_of(
    st.builds(lambda n, text, to: ("cds", n, f"{n}={text}>{to}"), st.sampled_from(NAMES), CONTENTS, TARGETS),
    st.builds(lambda n, text: ("eds", n, f"{n}={text}"), st.sampled_from(NAMES), CONTENTS),
    st.builds(lambda n, text, to: ("lds", n, f"{n}={text}>{to}"), st.sampled_from(NAMES), CONTENTS, TARGETS),
    st.builds(lambda n, text, to: ("rds", n, f"{n}={text}>{to}"), st.sampled_from(NAMES), CONTENTS, TARGETS),
)
EVENT = st.one_of(
    ITEM.map(lambda item: ("put", *item)),
    st.tuples(st.just("delete"), st.sampled_from(["cds", "lds"]), st.sampled_from(NAMES), st.just("")),
    st.just(("reconnect", "", "", "")),
    st.just(("restart", "", "", "")),
)


class Server:
    """The plainest SotW server: it answers a request when the version or the names are not what it sent last."""

    def __init__(self) -> None:
        self.session = SotwSession(Node(id="n"), decode_resource)
        self.content: dict[str, dict[str, str]] = {
            agent_resources.URLS[short]: {} for short in ("cds", "eds", "lds", "rds")
        }
        self.versions = dict.fromkeys(self.content, 1)
        self.epoch = 0
        self.now = 0.0
        self.nonces = 0
        self.connect()

    def connect(self) -> None:
        self.sent: dict[str, tuple[str, str, tuple[str, ...]]] = {}  # nonce, version, names
        first, *others = requests = self.session.connected(self.now)
        assert first.node.id == "n"
        assert not any(request.HasField("node") for request in others)
        assert not any(request.response_nonce for request in requests), "nonces are of one stream"
        self.play(requests)

    def play(self, requests: tuple[Request, ...]) -> None:
        """Answer until nobody has anything to say."""
        waiting = list(requests)
        for _ in range(100):
            if not waiting:
                return
            waiting += self.answered(waiting.pop(0))
        raise AssertionError("a hot loop")

    def answered(self, request: Request) -> tuple[Request, ...]:
        assert isinstance(request, DiscoveryRequest)
        url, names = request.type_url, tuple(request.resource_names)
        nonce, version, before = self.sent.get(url, ("", "", ()))
        if request.response_nonce != nonce:
            return ()  # stale
        now = f"{self.epoch}.{self.versions[url]}"
        known = version or request.version_info  # what this stream, or the one before, brought
        if known == now and (not version or set(names) <= set(before)):
            self.sent[url] = (nonce, version or now, names)
            return ()
        return self.send(url, names, now)

    def send(self, url: str, names: tuple[str, ...], version: str) -> tuple[Request, ...]:
        self.nonces += 1
        self.sent[url] = (str(self.nonces), version, names)
        response = DiscoveryResponse(type_url=url, nonce=str(self.nonces), version_info=version)
        for name, spec in self.content[url].items():
            if url in FULL or name in names:
                short = next(short for short, own in agent_resources.URLS.items() if own == url)
                response.resources.add(type_url=url, value=agent_resources.body_of(short, spec))
        return self.session.received(response.SerializeToString(), self.now).requests

    def change(self, url: str, name: str, spec: str) -> None:
        if spec:
            self.content[url][name] = spec
        else:
            self.content[url].pop(name, None)
        self.versions[url] += 1
        if url in self.sent:
            self.play(self.send(url, self.sent[url][2], f"{self.epoch}.{self.versions[url]}"))


@given(events=st.lists(EVENT, max_size=20))
@settings(max_examples=examples(200))
def test_the_client_holds_what_the_server_has_of_what_it_asked_for(events: list[tuple[str, str, str, str]]) -> None:
    server = Server()
    for verb, short, name, spec in events:
        if verb in ("reconnect", "restart"):
            server.epoch += verb == "restart"
            server.session.disconnected()
            server.connect()
        else:
            server.change(agent_resources.URLS[short], name, spec)
        server.now += 6.0  # longer than any answer is delayed
        server.play(server.session.on_time(server.now).requests)
        _check(server)


def _check(server: Server) -> None:
    session = server.session
    needs = {need for item in session.all_held() for need in item.decoded.needs}
    for url, content in server.content.items():
        wanted = set(content) if url in FULL else {name for kind, name in needs if kind == url}
        if url not in FULL:
            assert set(server.sent.get(url, ("", "", ()))[2]) == wanted, "the server knows what is wanted"
        for name in wanted & content.keys():
            if "!" not in content[name]:
                assert session.held(url)[name].body == agent_resources.body_of(_short(url), content[name])
            else:
                assert name in session.types[url].refused
        assert session.held(url).keys() <= wanted


def _short(url: str) -> str:
    return next(short for short, own in agent_resources.URLS.items() if own == url)


def test_bytes_that_are_no_response_are_said_to_be_none() -> None:
    session = SotwSession(Node(id="n"), decode_resource)
    session.connected(0.0)
    with pytest.raises(DecodeError):
        session.received(b"\xff\xff\xff", 0.0)

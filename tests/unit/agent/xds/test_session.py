"""The delta session against random servers; the transcripts (tests/transcripts/agent_session) show it rule by rule."""

from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.xds.decoding import decode_resource
from agent.xds.delta import DeltaSession
from agent.xds.session import MAX_REASON, Request
from mesh.xds import type_url
from mesh.xds.nack import rejected_names
from tests.support import agent_resources
from tests.support.depth import examples

ROOTS = {type_url.CLUSTER, type_url.LISTENER}
NAMES = st.sampled_from(["a", "b"])
CONTENTS = st.sampled_from(["1", "2", "1!", "1*"])
TARGETS = st.lists(NAMES, max_size=2, unique=True).map(",".join)
ITEM = st.one_of(
    st.builds(lambda name, text, to: ("cds", f"{name}={text}>{to}"), NAMES, CONTENTS, NAMES),
    st.builds(lambda name, text: ("eds", f"{name}={text}"), NAMES, CONTENTS),
    st.builds(lambda name, text, to: ("lds", f"{name}={text}>{to}"), NAMES, CONTENTS, TARGETS.filter(bool)),
    st.builds(lambda name, text, to: ("rds", f"{name}={text}>{to}"), NAMES, CONTENTS, TARGETS),
    st.builds(lambda name, own, text, to: ("vhds", f"{name}/{own}={text}>{to}"), NAMES, NAMES, CONTENTS, TARGETS),
)
EVENT = st.one_of(ITEM, st.tuples(st.just("remove"), st.tuples(ITEM)), st.just(("reconnect", "")))


class Client:
    """The session, and what its requests add up to on the server."""

    def __init__(self) -> None:
        self.session = DeltaSession(Node(id="n"), decode_resource)
        self.subscribed: dict[str, set[str]] = {}
        self.nonce = 0
        self.now = 0.0

    def connect(self) -> None:
        self.subscribed.clear()
        first, *others = self.session.connected(self.now)
        assert first.node.id == "n"
        assert not any(request.HasField("node") for request in others)
        for request in (first, *others):
            self._follow(request)

    def receive(self, short: str, spec: str, *, removed: bool) -> None:
        self.nonce += 1
        url = agent_resources.URLS[short]
        response = DeltaDiscoveryResponse(type_url=url, nonce=str(self.nonce))
        name, content, _ = agent_resources.fields_of(short, spec)
        if removed:
            response.removed_resources.append(name)
        else:
            resource = response.resources.add(name=name, version=content)
            resource.resource.type_url, resource.resource.value = url, agent_resources.body_of(short, spec)
        received = self.session.received(response.SerializeToString(), self.now).requests
        self.now += 10.0  # a refusal that is repeated is told later
        requests = (*received, *self.session.on_time(self.now).requests)
        (answer,) = (request for request in requests if request.response_nonce)
        assert (answer.type_url, answer.response_nonce) == (url, response.nonce)
        if answer.HasField("error_detail") and url in self.subscribed:
            assert set(rejected_names(answer.error_detail.details)) == {name}
            assert not removed
        for request in requests:
            if request is not answer:
                self._follow(request)

    def _follow(self, request: Request) -> None:
        assert isinstance(request, DeltaDiscoveryRequest)
        url, names = request.type_url, set(request.resource_names_subscribe)
        if url not in self.subscribed:
            assert names or url in {*ROOTS, type_url.VIRTUAL_HOST}, "an empty first request is a wildcard"
            self.subscribed[url] = names or {"*"}
            return
        assert names or request.resource_names_unsubscribe, "a request that says nothing"
        self.subscribed[url] = (self.subscribed[url] | names) - set(request.resource_names_unsubscribe)


@given(events=st.lists(EVENT, max_size=20))
@settings(max_examples=examples(300))
def test_subscriptions_are_what_the_held_resources_name(events: list[tuple[str, object]]) -> None:
    client = Client()
    client.connect()
    for short, rest in events:
        if short == "reconnect":
            client.session.disconnected()
            client.connect()
        elif short == "remove":
            ((inner, spec),) = rest  # type: ignore[misc]
            client.receive(inner, spec, removed=True)
        else:
            client.receive(short, str(rest), removed=False)
        needs = {need for item in client.session.all_held() for need in item.decoded.needs}
        for url, state in client.session.types.items():
            wanted = {"*"} if url in ROOTS else {name for kind, name in needs if kind == url}
            assert client.subscribed.get(url, set()) == wanted
            if wanted != {"*"}:
                assert state.held.keys() <= wanted
        refused = client.session.refused()
        assert all(reason for reason in refused.values())
        assert not any(item.version.endswith("!") for item in client.session.all_held())


def test_reasons_are_bounded() -> None:
    session = DeltaSession(Node(id="n"), lambda url, name, body: "x" * 100_000)
    session.connected(0.0)
    response = DeltaDiscoveryResponse(type_url=type_url.CLUSTER, nonce="1")
    resource = response.resources.add(name="a", version="1")
    resource.resource.type_url = type_url.CLUSTER
    (answer,) = session.received(response.SerializeToString(), 0.0).requests
    assert rejected_names(answer.error_detail.details) == {"a": "x" * MAX_REASON}


def test_the_servers_name_is_kept_for_the_stream() -> None:
    session = DeltaSession(Node(id="n"), decode_resource)
    session.connected(0.0)
    response = DeltaDiscoveryResponse(type_url=type_url.CLUSTER, nonce="1", system_version_info="7")
    response.control_plane.identifier = "server-1"
    session.received(response.SerializeToString(), 0.0)
    assert (session.connected_to, session.types[type_url.CLUSTER].version) == ("server-1", "7")
    session.connected(0.0)
    assert session.connected_to == ""

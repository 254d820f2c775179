"""The agent's ADS session, played from transcripts, with the real decoder: agent_session in delta, agent_sotw in SotW.

Commands (one a line; the output is what the client sends, in order):
  known TYPE SPEC...      a new session that has these from the disk; several lines add up
  connect                 a stream opens
  disconnect              the stream ends
  connect anew            the same, telling no version
  recv TYPE #NONCE [vVERSION] [SPEC...] [-NAME...]   a response; SPEC: tests/support/agent_resources.py
                          name=content^TYPE has a message of another type, name~ is a heartbeat without a message,
                          name=content@5 has a TTL of 5 s (name~@5 too), name?TEXT is a resource error;
                          garbage: in SotW bytes that are no message
  wait SECONDS            time passes
  state                   per type: what is held (name=version), refused and absent; whether everything is answered
Delta requests: TYPE ack #N, TYPE nack #N with its typed list, TYPE +NAME -NAME have:NAME=VERSION.
SotW requests: TYPE [NAME...] VERSION #NONCE, with `nack` and its typed list when it is one. `node` when it is said.
"""

from pathlib import Path

import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Resource,
)

from agent.xds.decoding import decode_resource
from agent.xds.delta import DeltaSession
from agent.xds.resources import Held
from agent.xds.session import AdsSession, Request
from agent.xds.sotw import SotwSession
from mesh.xds.nack import rejected_names
from mesh.xds.type_url import SHORT_NAMES
from tests.support import agent_resources, transcripts

DELTA = Path(__file__).parent / "agent_session"
SOTW = Path(__file__).parent / "agent_sotw"


class Conversation:
    """A session and the words of the transcript."""

    make: type[AdsSession] = DeltaSession

    def __init__(self) -> None:
        self.known: list[Held] = []
        self.now = 1000.0
        self.session = self._new()

    def _new(self) -> AdsSession:
        return self.make(Node(id="node-1"), decode_resource, self.known)

    def execute(self, text: str) -> str:
        lines: list[str] = []
        for line in text.splitlines():
            verb, *words = line.split()
            lines += getattr(self, f"do_{verb}")(words)
        return "\n".join(lines)

    def do_known(self, words: list[str]) -> list[str]:
        self.known += [agent_resources.held(words[0], spec) for spec in words[1:]]
        self.session = self._new()
        return []

    def do_connect(self, words: list[str]) -> list[str]:
        requests = self.session.connected(self.now, resume=words != ["anew"])
        return [line for request in requests for line in _shown(request)]

    def do_disconnect(self, words: list[str]) -> list[str]:
        self.session.disconnected()
        return []

    def do_wait(self, words: list[str]) -> list[str]:
        self.now += float(words[0])
        before = self._contents()
        outcome = self.session.on_time(self.now)
        assert outcome.changed == (self._contents() != before), "`changed` does not say what happened"
        return [line for request in outcome.requests for line in _shown(request)]

    def do_recv(self, words: list[str]) -> list[str]:
        before = self._contents()
        outcome = self.session.received(self.response(words), self.now)
        assert outcome.changed == (self._contents() != before), "`changed` does not say what happened"
        return [line for request in outcome.requests for line in _shown(request)]

    def response(self, words: list[str]) -> bytes:
        short, nonce, *rest = words
        response = DeltaDiscoveryResponse(type_url=agent_resources.URLS[short], nonce=nonce.removeprefix("#"))
        for word in rest:
            if word.startswith("-"):
                response.removed_resources.append(word[1:])
            elif "?" in word:
                _error(response, word)
            else:
                response.resources.append(resource_of(short, word))
        return response.SerializeToString()

    def do_state(self, words: list[str]) -> list[str]:
        lines = []
        for url, state in self.session.types.items():
            held = [f"{name}={item.version}" for name, item in sorted(state.held.items())]
            refused = [f"  {name or '(no name)'} refused: {why}" for name, why in sorted(state.refused.items())]
            absent = [f"  {name} absent: {why}" for name, why in sorted(state.absent.items())]
            if held or refused or absent:
                lines += [" ".join([SHORT_NAMES[url].lower(), *held]), *refused, *absent]
        return [*lines, "synced" if self.session.synced else "not synced"]

    def _contents(self) -> set[tuple[str, str, str]]:
        held = {(item.type_url, item.name, item.version) for item in self.session.all_held()}
        return held | {(*key, "absent") for key in self.session.absent()}


class SotwConversation(Conversation):
    make = SotwSession

    def response(self, words: list[str]) -> bytes:
        short, nonce, version, *rest = words
        url = agent_resources.URLS[short]
        response = DiscoveryResponse(type_url=url, nonce=nonce.removeprefix("#"), version_info=version[1:])
        for word in rest:
            if word == "garbage":
                response.resources.add(type_url=url, value=b"\xff\xff")
            elif "?" in word:
                _error(response, word)
            elif "@" in word or "~" in word:
                response.resources.add().Pack(resource_of(short, word))
            else:
                response.resources.add().CopyFrom(resource_of(short, word).resource)
        return response.SerializeToString()


def resource_of(short: str, word: str) -> Resource:
    """name=content>named, with its marks."""
    word, _, ttl = word.partition("@")
    spec, _, other = word.partition("^")
    if spec.endswith("~"):
        resource = Resource(name=spec[:-1])
    else:
        name, content, _ = agent_resources.fields_of(short, spec)
        resource = Resource(name=name, version=content)
        resource.resource.type_url = agent_resources.URLS[other or short]
        resource.resource.value = agent_resources.body_of(short, spec)
    if ttl:
        resource.ttl.FromSeconds(int(ttl))
    return resource


def _error(response: DeltaDiscoveryResponse | DiscoveryResponse, word: str) -> None:
    name, _, text = word.partition("?")
    error = response.resource_errors.add()
    error.resource_name.name, error.error_detail.message = name, text


def _shown(request: Request) -> list[str]:
    if isinstance(request, DiscoveryRequest):
        return _shown_sotw(request)
    return _shown_delta(request)


def _listed(request: Request) -> list[str]:
    listed = rejected_names(request.error_detail.details)
    assert all(f"{name}: {why}" in request.error_detail.message for name, why in listed.items())
    return [f"  {name}: {why}" for name, why in listed.items()]


def _shown_sotw(request: DiscoveryRequest) -> list[str]:
    words = [SHORT_NAMES[request.type_url].lower(), f"[{' '.join(request.resource_names)}]"]
    words += [f"v{request.version_info}"] if request.version_info else []
    words += [f"#{request.response_nonce}"] if request.response_nonce else []
    words += ["nack"] if request.HasField("error_detail") else []
    words += [f"node {request.node.id}"] if request.HasField("node") else []
    return [" ".join(words), *_listed(request)]


def _shown_delta(request: DeltaDiscoveryRequest) -> list[str]:
    short = SHORT_NAMES[request.type_url].lower()
    if request.response_nonce:
        assert not request.resource_names_subscribe
        assert not request.resource_names_unsubscribe
        if not request.HasField("error_detail"):
            return [f"{short} ack #{request.response_nonce}"]
        return [f"{short} nack #{request.response_nonce}", *_listed(request)]
    words = [f"+{name}" for name in request.resource_names_subscribe]
    words += [f"-{name}" for name in request.resource_names_unsubscribe]
    words += [f"have:{name}={version}" for name, version in sorted(request.initial_resource_versions.items())]
    words += [f"node {request.node.id}"] if request.HasField("node") else []
    return [" ".join([short, *(words or ["everything"])])]


@pytest.mark.parametrize("path", transcripts.cases(DELTA), ids=lambda path: path.stem)
def test_delta(path: Path) -> None:
    transcripts.run(path, Conversation().execute)


@pytest.mark.parametrize("path", transcripts.cases(SOTW), ids=lambda path: path.stem)
def test_sotw(path: Path) -> None:
    transcripts.run(path, SotwConversation().execute)

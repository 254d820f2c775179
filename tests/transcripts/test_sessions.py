"""The ADS sessions, played from transcripts: each file is a rule of control-plane.md 5 and a past bug elsewhere.

Commands (one a line; the output is what the server sends, in order):
  view SPEC...            the proxy's new view. SPEC: cds:a=1  eds:a=1  lds:l=1>a,b  rds:r=1>a  vhds:r/h=1>a,b
                          (type : name = content > clusters that it names); cds:a=1! is a cluster without EDS,
                          lds:l=1@r a listener of RouteConfiguration r, rds:r=1+ one whose virtual hosts come by VHDS
  req TYPE NAMES... [nonce=N] [nack=TEXT] [had=V]   SotW request; had: the version that a new stream's client brings,
                          @ = that of the last response
  sub TYPE [+NAME...] [-NAME...] [have:NAME=VERSION] [nonce=N] [nack=TEXT]   delta request
  ack                     the client answers everything it was sent, in order
  time SECONDS            the clock goes on
  features ttl            a new stream of a client that supports TTLs; cds:a=1~30 is a resource with one, in seconds
  sync                    per type: synced, pending or rejected; what is held and why
  first                   whether the first state is whole, else what has to be asked for
Contents are shown as TYPE name=content; a version is shown as the content that has it.
"""

from pathlib import Path

import pytest
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from controlplane.compiler.types import Resource
from controlplane.discovery.delta import DeltaSession
from controlplane.discovery.response import Response
from controlplane.discovery.session import Session
from controlplane.discovery.sotw import SotwSession
from controlplane.distribution.stream_sync import StreamSync
from controlplane.snapshot.diff import DiffCache
from controlplane.snapshot.view import EMPTY, NOTHING, View
from mesh.xds import type_url
from mesh.xds.type_url import SHORT_NAMES
from tests.support import resources, transcripts

HERE = Path(__file__).parent
URLS = {short.lower(): url for url, short in SHORT_NAMES.items()} | {"nothing": "type.googleapis.com/none"}


class Conversation:
    """A session, a client that answers when told to, and the words of the transcript."""

    def __init__(self, *, delta: bool) -> None:
        self.delta = delta
        self.now = 0.0
        self.ttl = False
        self.view = NOTHING
        self.contents: dict[str, str] = {}  # version -> content
        self.versions: dict[str, str] = {}  # type -> that of the last response
        self.unanswered: list[Response] = []
        self.subscribed: dict[str, tuple[str, ...]] = {}  # SotW repeats its names in every request
        self.session = self._new_session()

    def _new_session(self) -> Session:
        self.unanswered.clear()
        return (DeltaSession if self.delta else SotwSession)(self.view, StreamSync(), ttl=self.ttl)

    def execute(self, text: str) -> str:
        lines: list[str] = []
        for line in text.splitlines():
            verb, *words = line.split()
            lines += getattr(self, f"do_{verb}")(words)
        return "\n".join(lines)

    def do_view(self, words: list[str]) -> list[str]:
        view = View(self.view.revision + 1, resources.compiled(*map(self._resource, words)), EMPTY)
        changed = DiffCache().between(self.view, view)
        self.view = view
        return self._shown(self.session.on_view(view, changed, self.now))

    def do_reconnect(self, words: list[str]) -> list[str]:
        self.session = self._new_session()
        return []

    def do_features(self, words: list[str]) -> list[str]:
        self.ttl = "ttl" in words
        return self.do_reconnect([])

    def do_req(self, words: list[str]) -> list[str]:
        url = URLS[words[0]]
        plain, options = _options(words[1:])
        self.subscribed[url] = tuple(plain)
        request = DiscoveryRequest(
            type_url=url,
            resource_names=plain,
            response_nonce=options.get("nonce", ""),
            version_info=self.versions[url] if options.get("had") == "@" else options.get("had", ""),
        )
        return self._asked(request, options)

    def do_sub(self, words: list[str]) -> list[str]:
        plain, options = _options(words[1:])
        request = DeltaDiscoveryRequest(
            type_url=URLS[words[0]],
            resource_names_subscribe=[word[1:] for word in plain if word[0] == "+"],
            resource_names_unsubscribe=[word[1:] for word in plain if word[0] == "-"],
            response_nonce=options.get("nonce", ""),
        )
        for word in plain:
            if word.startswith("have:"):
                name, _, content = word.removeprefix("have:").partition("=")
                known = {text: version for version, text in self.contents.items()}
                request.initial_resource_versions[name] = known[f"{words[0]}:{name}={content}"]
        return self._asked(request, options)

    def _asked(self, request: DiscoveryRequest | DeltaDiscoveryRequest, options: dict[str, str]) -> list[str]:
        if "nack" in options:
            request.error_detail.message = options["nack"].replace("_", " ")
        if request.response_nonce:
            self.unanswered = [one for one in self.unanswered if one.nonce != request.response_nonce]
        return self._shown(self.session.on_request(request, self.now))

    def do_ack(self, words: list[str]) -> list[str]:
        lines: list[str] = []
        answered, self.unanswered = self.unanswered, []
        for response in answered:
            if self.delta:
                request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
            else:
                names = self.subscribed[response.type_url]
                request = DiscoveryRequest(
                    type_url=response.type_url, response_nonce=response.nonce, resource_names=names
                )
            lines += self._shown(self.session.on_request(request, self.now))
        return lines

    def do_time(self, words: list[str]) -> list[str]:
        self.now = float(words[0])
        due = self.session.deadline
        return self._shown(self.session.on_time(self.now)) if due is not None and due <= self.now else []

    def do_first(self, words: list[str]) -> list[str]:
        sync = self.session.sync
        if sync.unasked is None:
            return ["whole"]
        url, name = sync.unasked
        unknown = "answers" if self.session.subscriptions else "anything"
        lacks = f"{SHORT_NAMES.get(url, unknown).lower()} {name}".rstrip()
        return [f"lacks {lacks}{' (idle)' if sync.idle else ''}"]

    def do_sync(self, words: list[str]) -> list[str]:
        lines = []
        for url, sync in self.session.sync.types.items():
            short = SHORT_NAMES[url].lower()
            lines.append(f"{short} {sync.state()}")
            lines += [f"  {short} {name} waits for {held.waits_for}" for name, held in sorted(sync.held.items())]
            for name, rejection in sorted(sync.rejected.items()):
                lines.append(f"  {short} {name} {'rejected' if rejection.certain else 'suspected'}: {rejection.reason}")
        return lines

    def _shown(self, responses: list[Response]) -> list[str]:
        self.unanswered += responses
        lines = []
        for response in responses:
            self.versions[response.type_url] = response.version
            short = SHORT_NAMES[response.type_url].lower()
            given = sorted(self.contents.get(r.version) or f"{short}:{_other(r)}" for r in response.resources)
            words = [word.removeprefix(f"{short}:") for word in given] + [f"-{n}" for n in sorted(response.removed)]
            kind = " renews" if response.heartbeat else ""
            lines.append(" ".join([f"{short} #{response.nonce}{kind}", *(words or ["nothing"])]))
            lines += [f"  {short} {name} does not exist" for name in response.missing]
        return lines

    def _resource(self, spec: str) -> Resource:
        short, _, rest = spec.partition(":")
        head, _, named = rest.partition(">")
        name, _, content = head.partition("=")
        clusters = named.split(",") if named else []
        match short:
            case "cds":
                plain, _, ttl = content.partition("~")
                made = resources.cluster(name, content, eds=not plain.endswith("!"), ttl_s=float(ttl or 0))
            case "eds":
                made = resources.assignment(name, content)
            case "lds":
                plain, _, routes = content.partition("@")
                made = resources.listener(name, *clusters, tag=plain, routes=routes)
            case "rds":
                made = resources.route_configuration(name, *clusters, tag=content, by_vhds=content.endswith("+"))
            case _:
                made = resources.vhds(name, *clusters, tag=content)
        self.contents[made.version] = f"{short}:{head}"
        return made


def _other(resource: Resource) -> str:
    """What the server makes by itself."""
    if resource.type_url == type_url.CLUSTER:
        return f"{resource.name}=stand-in"
    lent = ClusterLoadAssignment.FromString(resource.body).endpoints
    return f"{resource.name}={'lent' if lent else 'empty'}"


_OPTIONS = ("nonce=", "nack=", "had=")


def _options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    pairs = [word.partition("=") for word in words if word.startswith(_OPTIONS)]
    plain = [word for word in words if not word.startswith(_OPTIONS)]
    return plain, {key: value for key, _, value in pairs}


@pytest.mark.parametrize("path", transcripts.cases(HERE / "sotw"), ids=lambda path: path.stem)
def test_sotw(path: Path) -> None:
    transcripts.run(path, Conversation(delta=False).execute)


@pytest.mark.parametrize("path", transcripts.cases(HERE / "delta"), ids=lambda path: path.stem)
def test_delta(path: Path) -> None:
    transcripts.run(path, Conversation(delta=True).execute)

"""Workers' questions at authorization services over real gRPC on loopback, plain and by mutual TLS."""

import asyncio
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.ipc.messages import CheckAnswers, CheckQuestions, Identities
from agent.model.cluster import Cluster, Endpoint, LoadAssignment, Thresholds, TransportSocket
from agent.model.ext_authz import Change, CheckAnswer, CheckPeer, CheckQuestion, CheckVerdict, HeaderChange
from agent.model.tls import UpstreamTls
from agent.supervisor import authorizers as module
from agent.supervisor.authorizers import Authorizers
from agent.supervisor.tls_relay import TlsRelay
from agent.upstream.tls import TlsContexts
from mesh.vocabulary import HealthStatus
from tests.support.authorizing import Authorizer, CheckResponse, ParseDict, allowing, denying, erring
from tests.support.authorizing import field as header
from tests.support.identities import TestAuthority
from tests.support.proxying import WAIT_S, until

WORKER = 7
US = "spiffe://td/ns/default/sa/web"
SERVICE = "spiffe://td/ns/default/sa/authz"


def question(number: int = 1, **fields: Any) -> CheckQuestion:
    own: dict[str, Any] = {
        "cluster": "authz", "identity": US, "authority": "", "call_headers": (), "timeout_s": 10.0,
        "source": CheckPeer(address="10.1.2.3:40000", principal=b"spiffe://x"),
        "destination": CheckPeer(address="[::1]:80"), "request_id": "5", "time_s": 1.5, "method": b"GET",
        "scheme": b"http", "host": b"a", "path": b"/p?q=1", "protocol": "HTTP/1.1", "headers": ((b"x", b"1,2"),),
        "size": 0, "body": None, "as_bytes": False, "context": (), "metadata": {},
    }  # fmt: skip
    return CheckQuestion(number=number, **{**own, **fields})


def endpoint(port: int, **fields: Any) -> Endpoint:
    return Endpoint(address="127.0.0.1", port=port, **fields)


def denied_with_infinity() -> CheckResponse:
    """Its metadata is no JSON."""
    response = denying()
    response.dynamic_metadata["a"] = float("inf")
    return response


@dataclass
class Asking:
    """The supervisor's part, with what is served and what was answered."""

    authorizers: Authorizers
    clusters: dict[str, Cluster]
    hosts: dict[str, tuple[Endpoint, ...]]
    frames: list[CheckAnswers] = field(default_factory=list)

    def serve(self, *hosts: Endpoint | int, **fields: Any) -> None:
        self.clusters["authz"] = Cluster(name="authz", **fields)
        self.hosts["authz"] = tuple(host if isinstance(host, Endpoint) else endpoint(host) for host in hosts)
        self.authorizers.follow()

    def put(self, *questions: CheckQuestion, dropped: tuple[int, ...] = (), worker: int = WORKER) -> None:
        self.authorizers.ask(worker, CheckQuestions(questions, dropped), self.frames.append)

    @property
    def answers(self) -> list[CheckAnswer]:
        return [answer for frame in self.frames for answer in frame.answers]

    async def ask(self, **fields: Any) -> CheckAnswer:
        """Ask one question."""
        count = len(self.answers)
        self.put(question(count + 1, **fields))
        await until(lambda: len(self.answers) > count)
        return self.answers[-1]


@asynccontextmanager
async def asking(folder: Path) -> AsyncIterator[Asking]:
    clusters: dict[str, Cluster] = {}
    hosts: dict[str, tuple[Endpoint, ...]] = {}

    def assignment(name: str) -> LoadAssignment | None:
        return LoadAssignment(cluster=name, endpoints=hosts[name]) if name in hosts else None

    made = Asking(Authorizers(folder, clusters.get, assignment, clock=time.monotonic), clusters, hosts)
    try:
        yield made
    finally:
        await made.authorizers.close()
        assert not made.authorizers._asking
        assert not list(folder.glob("relay-*")), "no socket is left"


async def test_asked_and_answered(tmp_path: Path) -> None:
    changes = allowing(headers=[header("x-user", "me")], headers_to_remove=["cookie"])
    with Authorizer({"/p": changes}).running() as service:
        async with asking(tmp_path) as supervisor:
            supervisor.serve(service.port)
            metadata = {"envoy.filters.http.jwt_authn": {"sub": "me", "groups": ["a", 1.0]}}
            answer = await supervisor.ask(
                body=b"\xffb\xc3\xa4", context=(("a", "b"),), metadata=metadata, call_headers=(("x-from", "mesh"),)
            )
            assert answer == CheckAnswer(
                number=1,
                verdict=CheckVerdict.OK,
                request=(HeaderChange(b"x-user", b"me", Change.SET),),
                removed=(b"cookie",),
            )
            attributes = service.seen[0].attributes
            assert attributes.source.address.socket_address.address == "10.1.2.3"
            assert attributes.source.address.socket_address.port_value == 40000
            assert attributes.source.principal == "spiffe://x"
            assert attributes.destination.address.socket_address.address == "::1"
            assert attributes.request.time.ToNanoseconds() == 1_500_000_000
            assert attributes.request.http.body == "!bä"
            assert attributes.request.http.headers == {"x": "1,2"}
            assert attributes.context_extensions == {"a": "b"}
            told = attributes.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"]
            assert dict(told) == {"sub": "me", "groups": ["a", 1.0]}
            assert service.metadata[0]["x-from"] == "mesh"
            await supervisor.ask(body=b"\xff", as_bytes=True)
            assert service.seen[1].attributes.request.http.raw_body == b"\xff"
            assert service.seen[1].attributes.request.http.body == ""


@pytest.mark.parametrize(
    ("said", "verdict", "status"),
    [
        (denying(), CheckVerdict.DENIED, 403),
        (denying(status={"code": 302}), CheckVerdict.DENIED, 302),
        (ParseDict({"status": {"code": 16}}, CheckResponse()), CheckVerdict.DENIED, 403),
        (CheckResponse(), CheckVerdict.OK, 0),
        (erring(), CheckVerdict.ERROR, 0),
        (erring(status={"code": 503}), CheckVerdict.ERROR, 503),
        (denying(status={"code": 100}), CheckVerdict.DENIED, 403),
        (denying(status={"code": 700}), CheckVerdict.DENIED, 403),
        (erring(status={"code": 700}), CheckVerdict.ERROR, 0),
        (denied_with_infinity(), CheckVerdict.DENIED, 403),
        (denying(headers=[header("x", "1", 9)]), CheckVerdict.INVALID, 0),
        (allowing(response_headers_to_add=[header("x", "1", 9)]), CheckVerdict.INVALID, 0),
        (grpc.StatusCode.PERMISSION_DENIED, CheckVerdict.ERROR, 0),
        (denying(body="x" * (module.MAX_ANSWER_BYTES + 1)), CheckVerdict.ERROR, 0),
    ],
)
async def test_what_an_answer_comes_to(tmp_path: Path, said: Any, verdict: CheckVerdict, status: int) -> None:
    with Authorizer({"/p": said}).running() as service:
        async with asking(tmp_path) as supervisor:
            supervisor.serve(service.port)
            answer = await supervisor.ask()
            assert (answer.verdict, answer.status) == (verdict, status)


async def test_what_is_taken_back_before_anything_is_served_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of before may ask for long: what waits is what somebody waits for, and no more of it than elsewhere."""
    monkeypatch.setattr(module, "MAX_ASKING", 3)
    with Authorizer().running() as service:
        async with asking(tmp_path) as supervisor:
            for number in range(1, 20):
                supervisor.put(question(number))
                supervisor.put(dropped=(number,))
            supervisor.put(question(20), question(21), worker=8)
            supervisor.authorizers.forget_worker(8)
            supervisor.put(*(question(number) for number in range(30, 34)))
            await until(lambda: len(supervisor.answers) == 1)
            assert (supervisor.answers[0].number, supervisor.answers[0].verdict) == (33, CheckVerdict.ERROR)
            supervisor.serve(service.port)
            await until(lambda: len(supervisor.answers) == 4)
            assert {answer.number: answer.verdict for answer in supervisor.answers[1:]} == dict.fromkeys(
                (30, 31, 32), CheckVerdict.OK
            )


async def test_nobody_to_ask(tmp_path: Path) -> None:
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        async with asking(tmp_path) as supervisor:
            supervisor.authorizers.follow()
            assert (await supervisor.ask()).verdict is CheckVerdict.ERROR, "there is no such cluster"
            supervisor.serve()
            assert (await supervisor.ask()).verdict is CheckVerdict.ERROR, "it has no host"
            supervisor.serve(bound.getsockname()[1])
            assert (await supervisor.ask()).verdict is CheckVerdict.ERROR, "nobody listens"


async def test_what_is_asked_before_anything_is_served(tmp_path: Path) -> None:
    """By a worker that was there before."""
    with Authorizer().running() as service:
        async with asking(tmp_path) as supervisor:
            supervisor.put(question(1), question(2))
            supervisor.put(dropped=(1,))
            await asyncio.sleep(0)
            assert not supervisor.answers
            supervisor.serve(service.port)
            await until(lambda: len(supervisor.answers) == 1)
            assert (supervisor.answers[0].number, supervisor.answers[0].verdict) == (2, CheckVerdict.OK)


async def test_a_host_that_speaks_nonsense(tmp_path: Path) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server, asking(tmp_path) as supervisor:
        supervisor.serve(server.sockets[0].getsockname()[1])
        assert (await supervisor.ask(timeout_s=2.0)).verdict is CheckVerdict.ERROR


async def test_a_service_that_takes_too_long(tmp_path: Path) -> None:
    with Authorizer({"/p": "wait"}).running() as service:
        async with asking(tmp_path) as supervisor:
            supervisor.serve(service.port)
            assert (await supervisor.ask(timeout_s=0.1)).verdict is CheckVerdict.ERROR
            await until(lambda: service.ended == 1)


async def test_what_is_taken_back_ends_at_the_service_too(tmp_path: Path) -> None:
    with Authorizer({"/p": "wait"}).running() as service:
        async with asking(tmp_path) as supervisor:
            supervisor.serve(service.port)
            supervisor.put(question(1), question(2))
            supervisor.put(question(1), worker=8)
            await until(lambda: service.waiting == 3)
            supervisor.put(dropped=(1, 5))
            await until(lambda: service.ended == 1)
            supervisor.authorizers.forget_worker(WORKER)
            await until(lambda: service.ended == 2)
            service.go_on.set()
            await until(lambda: len(supervisor.answers) == 1)
            assert supervisor.answers[0].verdict is CheckVerdict.OK, "that of the other worker"


async def test_there_are_not_too_many_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Authorizer({"/p": "wait"}).running() as service:
        async with asking(tmp_path) as supervisor:
            supervisor.serve(service.port, thresholds=Thresholds(max_requests=2))
            supervisor.put(*(question(number) for number in (1, 2, 3)))
            await until(lambda: len(supervisor.answers) == 1)
            assert (supervisor.answers[0].number, supervisor.answers[0].verdict) == (3, CheckVerdict.ERROR)
            monkeypatch.setattr(module, "MAX_ASKING", 2)
            supervisor.serve(service.port)
            supervisor.put(question(4))
            await until(lambda: len(supervisor.answers) == 2)
            assert supervisor.answers[1].verdict is CheckVerdict.ERROR
            service.go_on.set()
            await until(lambda: len(supervisor.answers) == 4)
            assert (await supervisor.ask()).verdict is CheckVerdict.OK, "there is room again"


async def test_large_answers_go_in_several_frames(tmp_path: Path) -> None:
    """One frame must not be too large for the channel."""
    with Authorizer({"/p": denying(body="x" * 900_000)}).running() as service:
        async with asking(tmp_path) as supervisor:
            supervisor.serve(service.port)
            supervisor.put(*(question(number) for number in range(20)))
            await until(lambda: len(supervisor.answers) == 20)
            assert {answer.verdict for answer in supervisor.answers} == {CheckVerdict.DENIED}
            for frame in supervisor.frames:
                assert sum(len(answer.body) for answer in frame.answers) <= module.MAX_FRAME_BYTES


async def test_hosts_are_chosen_by_health_and_priority(tmp_path: Path) -> None:
    with Authorizer().running() as first, Authorizer().running() as second, Authorizer().running() as third:
        async with asking(tmp_path) as supervisor:
            sick = endpoint(first.port, health=HealthStatus.UNHEALTHY)
            supervisor.serve(sick, endpoint(second.port, priority=1), endpoint(third.port, priority=2))
            for _ in range(10):
                assert (await supervisor.ask()).verdict is CheckVerdict.OK
            assert (len(first.seen), len(second.seen), len(third.seen)) == (0, 10, 0)
            supervisor.serve(sick)
            assert (await supervisor.ask()).verdict is CheckVerdict.OK, "better than nobody"
            supervisor.serve(second.port, third.port)
            second.seen.clear()
            for _ in range(40):
                assert (await supervisor.ask()).verdict is CheckVerdict.OK
            assert second.seen
            assert third.seen


_DENYING = """
import sys, time
from tests.support.authorizing import Authorizer, denying
service = Authorizer({"/p": denying()})
server = service.server(int(sys.argv[1]))
server.start()
print(service.port, flush=True)
time.sleep(600)
"""


@contextmanager
def denying_process(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service in a process of its own, which denies everything."""
    command = [sys.executable, "-c", _DENYING, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_a_service_that_is_killed_under_load(tmp_path: Path) -> None:
    """Every question has one answer; the other host takes over, and the first serves again once it is back."""
    with Authorizer().running() as other, denying_process() as (process, port):
        async with asking(tmp_path) as supervisor:
            supervisor.serve(port, other.port)

            async def load(count: int) -> set[CheckVerdict]:
                before = len(supervisor.answers)
                for number in range(before, before + count):
                    supervisor.put(question(number))
                    await asyncio.sleep(0)
                await until(lambda: len(supervisor.answers) == before + count)
                assert len({answer.number for answer in supervisor.answers}) == before + count
                return {answer.verdict for answer in supervisor.answers[before:]}

            assert await load(100) == {CheckVerdict.OK, CheckVerdict.DENIED}
            supervisor.put(*(question(number) for number in range(100, 200)))
            process.kill()
            await until(lambda: len(supervisor.answers) == 200)
            async with asyncio.timeout(WAIT_S):
                while CheckVerdict.ERROR in await load(20):
                    pass
            assert await load(100) == {CheckVerdict.OK}, "the host that is gone is passed over"
            with denying_process(port):
                async with asyncio.timeout(WAIT_S):
                    while CheckVerdict.DENIED not in await load(20):
                        pass


# --- mutual TLS


@dataclass
class Secured:
    """A service that wants the mesh's certificates, and the identities that this side holds."""

    service: Authorizer
    identities: Identities
    tls: UpstreamTls


@contextmanager
def secured(authority: TestAuthority, *, name: str = SERVICE) -> Iterator[Secured]:
    pair = authority.issue(name)
    credentials = grpc.ssl_server_credentials(
        [(pair.key_pem, pair.chain_pem)], authority.trust_pem, require_client_auth=True
    )
    with Authorizer().running(credentials=credentials) as service:
        identities = Identities((authority.issue(US),), authority.trust_pem)
        yield Secured(service, identities, UpstreamTls(peer_ids=frozenset({SERVICE}), sni="authz.default"))


async def test_by_mutual_tls(tmp_path: Path) -> None:
    """In the name of the workload that is asked for; plaintext and TLS by what each host says of itself."""
    with secured(TestAuthority()) as one, Authorizer().running() as plain:
        async with asking(tmp_path) as supervisor:
            supervisor.authorizers.renew(one.identities)
            marked = (("tlsMode", "gossamer"),)
            sockets = (TransportSocket(name="t", match=marked, tls=one.tls),)
            supervisor.serve(
                endpoint(one.service.port, transport=marked), endpoint(plain.port), transport_sockets=sockets
            )
            for _ in range(40):
                assert (await supervisor.ask()).verdict is CheckVerdict.OK
            assert one.service.seen
            assert plain.seen
            assert one.service.peers == {US}
            (path,) = tmp_path.glob("relay-*.sock")
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            supervisor.serve(plain.port)
            await until(lambda: not list(tmp_path.glob("relay-*.sock")))


@pytest.mark.parametrize(
    ("held", "fields"),
    [
        (True, {"identity": "spiffe://td/ns/default/sa/other"}),
        (False, {}),
    ],
)
async def test_without_a_certificate_nobody_is_asked(tmp_path: Path, held: bool, fields: dict[str, str]) -> None:
    with secured(TestAuthority()) as one:
        async with asking(tmp_path) as supervisor:
            if held:
                supervisor.authorizers.renew(one.identities)
            supervisor.serve(one.service.port, tls=one.tls)
            assert (await supervisor.ask(timeout_s=2.0, **fields)).verdict is CheckVerdict.ERROR
            assert not one.service.seen


async def test_only_the_expected_peer_is_asked(tmp_path: Path) -> None:
    """Another name, or another mesh, sees nothing."""
    authority = TestAuthority()
    with secured(authority, name="spiffe://td/ns/default/sa/thief") as thief, secured(TestAuthority()) as stranger:
        async with asking(tmp_path) as supervisor:
            supervisor.authorizers.renew(thief.identities)
            for one in (thief, stranger):
                supervisor.serve(one.service.port, tls=one.tls)
                assert (await supervisor.ask(timeout_s=2.0)).verdict is CheckVerdict.ERROR
                assert not one.service.seen


async def test_renewed_identities_connect_anew(tmp_path: Path) -> None:
    with secured(TestAuthority()) as one:
        async with asking(tmp_path) as supervisor:
            supervisor.serve(one.service.port, tls=one.tls)
            assert (await supervisor.ask(timeout_s=2.0)).verdict is CheckVerdict.ERROR
            supervisor.authorizers.renew(one.identities)
            assert (await supervisor.ask()).verdict is CheckVerdict.OK
            supervisor.authorizers.renew(one.identities)
            assert (await supervisor.ask()).verdict is CheckVerdict.OK


@pytest.mark.parametrize(("close_s", "verdict"), [(10.0, CheckVerdict.OK), (0.05, CheckVerdict.ERROR)])
async def test_what_is_under_way_when_identities_are_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, close_s: float, verdict: CheckVerdict
) -> None:
    """It has its answer, or the time that there is for that has passed; it is never left without one."""
    monkeypatch.setattr(module, "CLOSE_S", close_s)
    with secured(TestAuthority()) as one:
        one.service.answers["/p"] = "wait"
        async with asking(tmp_path) as supervisor:
            supervisor.authorizers.renew(one.identities)
            supervisor.serve(one.service.port, tls=replace(one.tls, sni=""))
            supervisor.put(question(1))
            await until(lambda: one.service.waiting == 1)
            supervisor.authorizers.renew(one.identities)
            if verdict is CheckVerdict.OK:
                one.service.go_on.set()
            await until(lambda: len(supervisor.answers) == 1)
            assert supervisor.answers[0].verdict is verdict


async def test_another_process_does_not_get_through(tmp_path: Path) -> None:
    """Whoever may open the socket: it would speak in the workload's name."""
    with secured(TestAuthority()) as one:
        async with asking(tmp_path) as supervisor:
            supervisor.authorizers.renew(one.identities)
            supervisor.serve(one.service.port, tls=one.tls)
            assert (await supervisor.ask()).verdict is CheckVerdict.OK
            (path,) = tmp_path.glob("relay-*.sock")
            script = f"import os,socket; s=socket.socket(socket.AF_UNIX); os.chdir({str(tmp_path)!r});"
            script += f"s.connect({path.name!r}); s.settimeout(5); print(s.recv(1))"
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            out, errors = await process.communicate()
            assert out == b"b''\n" or b"ConnectionResetError" in errors


async def test_channels_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHANNELS", 2)
    with Authorizer().running() as service:
        async with asking(tmp_path) as supervisor:
            supervisor.serve(service.port)
            for number in range(5):
                assert (await supervisor.ask(authority=f"a{number}")).verdict is CheckVerdict.OK
            assert len(supervisor.authorizers._channels) == 2


async def test_sockets_of_one_that_was_killed_are_removed(tmp_path: Path) -> None:
    (tmp_path / "relay-3.sock").touch()
    async with asking(tmp_path):
        assert not list(tmp_path.iterdir())


async def test_a_relay_whose_start_is_cut_leaves_nothing(tmp_path: Path) -> None:
    """By a question that is taken back, or has waited too long, while its channel opens."""
    loop = asyncio.get_running_loop()
    path = tmp_path / "relay-1.sock"
    relay = TlsRelay(path, endpoint(1), UpstreamTls(identity=US), US, TlsContexts(), 1.0)
    starting = loop.create_task(relay.start())
    loop.call_soon(starting.cancel)
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not path.exists()
    assert relay._server is None or not relay._server.is_serving()

"""Asking authorization services over gRPC for the workers.

Owns:   whom a question goes to, the channels, how many questions are under way, their end.
Not:    messages (check_messages), TLS (tls_relay), what an answer does to a request (agent.proxy.ext_authz).
Source: Envoy's ext_authz_grpc_impl.cc; the hosts and the TLS of a service are those of its cluster as served.
Invariants: each question is answered once, or taken back; MAX_ASKING are under way at most, and of one cluster no more
        than its max_requests: one more has failed at once; nothing is asked twice; a service's answer has
        MAX_ANSWER_BYTES at most; of MAX_CHANNELS channels that which was used longest ago makes room.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from agent.ipc.messages import CheckAnswers, CheckQuestions, Identities
from agent.model.cluster import Cluster, Endpoint, LoadAssignment
from agent.model.ext_authz import CheckAnswer, CheckQuestion
from agent.model.tls import UpstreamTls
from agent.supervisor.check_messages import check_answer, check_request, failed
from agent.supervisor.tls_relay import TlsRelay
from agent.upstream.tls import CALLER, TlsContexts
from mesh.logs import get_logger
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import HealthStatus

_log = get_logger(__name__)

METHOD = "/envoy.service.auth.v3.Authorization/Check"
MAX_ASKING = 1024
MAX_CHANNELS = 64
MAX_ANSWER_BYTES = 1024 * 1024
MAX_FRAME_BYTES = 4 * 1024 * 1024
LOG_EVERY_S = 10.0
CLOSE_S = 10.0  # so long what is under way on a channel may take that is not needed any more
_RELAY = "relay-"
_GOOD = frozenset({HealthStatus.UNKNOWN, HealthStatus.HEALTHY})
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 300_000),  # more often, and gRPC's servers take it for an attack
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.service_config_disable_resolution", 1),
    # Channels of one process with equal arguments share connections; a renewed certificate must open a new one.
    ("grpc.use_local_subchannel_pool", 1),
)

Reply = Callable[[CheckAnswers], None]


@dataclass(frozen=True, slots=True)
class _Key:
    """What a channel is for. `tls` None = plaintext, which is the same for every identity."""

    cluster: str
    host: str
    tls: UpstreamTls | None
    identity: str
    authority: str


class _Channel:
    def __init__(self, channel: grpc.aio.Channel, relay: TlsRelay | None) -> None:
        self.channel = channel
        self.call: Any = channel.unary_unary(
            METHOD, request_serializer=CheckRequest.SerializeToString, response_deserializer=CheckResponse.FromString
        )
        self._relay = relay

    @property
    def failing(self) -> bool:
        return self.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def close(self) -> None:
        await self.channel.close(CLOSE_S)
        if self._relay is not None:
            self._relay.close()


class Authorizers:
    """One per supervisor. `cluster`, `assignment`: what is served by a name."""

    def __init__(
        self,
        state_dir: Path,
        cluster: Callable[[str], Cluster | None],
        assignment: Callable[[str], LoadAssignment | None],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._state_dir = state_dir
        self._cluster = cluster
        self._assignment = assignment
        self._clock = clock
        self._contexts = TlsContexts()
        self._channels: dict[_Key, _Channel] = {}  # used last: last
        self._asking: dict[tuple[int, int], asyncio.Task[None]] = {}  # by worker and number
        self._of_cluster: Counter[str] = Counter()
        self._answers: dict[Reply, list[tuple[CheckAnswer, int]]] = {}  # with about how many bytes each has
        self._begun = False  # something is served
        self._early: dict[tuple[int, int], tuple[CheckQuestion, Reply]] = {}
        self._opening = asyncio.Lock()
        self._relays = 0
        self._directory = -1  # open: a socket's path must be short for gRPC too
        self._logged = float("-inf")
        for left in state_dir.glob(f"{_RELAY}*.sock"):  # by one that was killed
            left.unlink(missing_ok=True)

    # --- questions ----------------------------------------------------------------------------------------------

    def ask(self, worker: int, questions: CheckQuestions, reply: Reply) -> None:
        """`worker`: its process; `reply` is called with the answers, as they come.

        A predecessor's workers may ask before anything is served: then it waits for that.
        """
        for number in questions.dropped:
            self._drop((worker, number))
        for question in questions.questions:
            self._begin((worker, question.number), question, reply)

    def _begin(self, key: tuple[int, int], question: CheckQuestion, reply: Reply) -> None:
        if not self._begun and len(self._early) < MAX_ASKING:
            self._early[key] = question, reply
            return
        cluster = self._cluster(question.cluster)
        if cluster is None or not self._has_room(cluster):
            self._answer(reply, failed(question.number))
            return
        self._of_cluster[cluster.name] += 1
        task = spawn("authorization question", self._ask(question, cluster, reply))
        self._asking[key] = task
        task.add_done_callback(partial(self._over, key, cluster.name))

    def forget_worker(self, worker: int) -> None:
        """It is gone, and so are its requests."""
        for key in [key for key in (*self._early, *self._asking) if key[0] == worker]:
            self._drop(key)

    def _has_room(self, cluster: Cluster) -> bool:
        return len(self._asking) < MAX_ASKING and self._of_cluster[cluster.name] < cluster.thresholds.max_requests

    def _drop(self, key: tuple[int, int]) -> None:
        self._early.pop(key, None)
        task = self._asking.get(key)
        if task is not None:
            task.cancel()

    def _over(self, key: tuple[int, int], cluster: str, task: asyncio.Task[None]) -> None:
        self._asking.pop(key, None)
        self._of_cluster[cluster] -= 1
        if not self._of_cluster[cluster]:
            del self._of_cluster[cluster]

    async def _ask(self, question: CheckQuestion, cluster: Cluster, reply: Reply) -> None:
        answer, size = failed(question.number), 0
        try:
            async with asyncio.timeout(question.timeout_s):
                channel = await self._channel(question, cluster)
                metadata = question.call_headers or None
                response = await channel.call(check_request(question), metadata=metadata, timeout=question.timeout_s)
            answer, size = check_answer(question.number, response), response.ByteSize()
        except grpc.aio.AioRpcError as error:
            self._note(question.cluster, f"{error.code().name}: {error.details()}")
        except TimeoutError:
            self._note(question.cluster, "it takes too long")
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            self._note(question.cluster, "its channel is closed")
        except Exception as error:  # noqa: BLE001 - gRPC raises what it likes, and somebody waits
            self._note(question.cluster, f"it cannot be asked: {error!r}")
        self._answer(reply, answer, size)

    def _answer(self, reply: Reply, answer: CheckAnswer, size: int = 0) -> None:
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._flush)
        self._answers.setdefault(reply, []).append((answer, size))

    def _flush(self) -> None:
        """Those that came in one turn of the loop go in one frame, if they fit."""
        answers, self._answers = self._answers, {}
        for reply, own in answers.items():
            batch: list[CheckAnswer] = []
            total = 0
            for answer, size in own:
                if batch and total + size > MAX_FRAME_BYTES:
                    reply(CheckAnswers(tuple(batch)))
                    batch, total = [], 0
                batch.append(answer)
                total += size
            reply(CheckAnswers(tuple(batch)))

    def _note(self, cluster: str, reason: str) -> None:
        now = self._clock()
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            _log.warning("an authorization service does not answer", cluster=cluster, reason=reason)

    # --- channels -----------------------------------------------------------------------------------------------

    async def _channel(self, question: CheckQuestion, cluster: Cluster) -> _Channel:
        """Raises LookupError when there is no host, OSError."""
        assignment = self._assignment(cluster.name)
        hosts = _usable(assignment.endpoints if assignment is not None else ())
        if not hosts:
            raise LookupError("it has no host")
        keys = {_key(question, cluster, host): host for host in hosts}
        known = self._channels
        sound = [key for key in keys if key not in known or not known[key].failing] or list(keys)
        (key,) = random.choices(sound, [max(keys[one].weight, 1) for one in sound])
        if key not in known:
            async with self._opening:
                if key not in known:
                    known[key] = await self._open(key, keys[key], cluster.connect_timeout_s)
        channel = known[key] = known.pop(key)
        while len(known) > MAX_CHANNELS:
            self._close(next(iter(known)))
        return channel

    async def _open(self, key: _Key, host: Endpoint, connect_s: float) -> _Channel:
        options = (*_OPTIONS, ("grpc.default_authority", key.authority))
        if key.tls is None:
            scheme = "ipv6" if ":" in host.address else "ipv4"
            return _Channel(grpc.aio.insecure_channel(f"{scheme}:{host.key}", options=options), None)
        self._relays += 1
        name = f"{_RELAY}{self._relays}.sock"
        relay = TlsRelay(self._state_dir / name, host, key.tls, key.identity, self._contexts, connect_s)
        await relay.start()
        if self._directory < 0:
            self._directory = os.open(self._state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        target = f"unix:/proc/self/fd/{self._directory}/{name}"
        return _Channel(grpc.aio.insecure_channel(target, options=options), relay)

    def _close(self, key: _Key) -> None:
        spawn("close an authorization service's channel", self._channels.pop(key).close())

    def follow(self) -> None:
        """Something else is served: close the channels to what is gone."""
        self._begun = True
        early, self._early = self._early, {}
        for number, (question, reply) in early.items():
            self._begin(number, question, reply)
        for key in list(self._channels):
            cluster, assignment = self._cluster(key.cluster), self._assignment(key.cluster)
            hosts = assignment.endpoints if assignment is not None else ()
            if cluster is None or not any(host.key == key.host and cluster.tls_for(host) == key.tls for host in hosts):
                self._close(key)

    def renew(self, identities: Identities) -> None:
        """There are other identities: connect anew where they are shown."""
        self._contexts.replace(identities.key_pairs, identities.trust_pem, identities.roots)
        for key in [key for key in self._channels if key.tls is not None]:
            self._close(key)

    async def close(self) -> None:
        """End what is under way; nobody asks any more."""
        await cancel_and_wait(*self._asking.values())
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def _is_cancelled() -> bool:
    """Whether this task is, not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _usable(hosts: tuple[Endpoint, ...]) -> list[Endpoint]:
    """The healthy ones of the first priority that has any; all, when none is."""
    good = [host for host in hosts if host.health in _GOOD]
    first = min((host.priority for host in good), default=0)
    return [host for host in good if host.priority == first] or list(hosts)


def _key(question: CheckQuestion, cluster: Cluster, host: Endpoint) -> _Key:
    tls = cluster.tls_for(host)
    identity = question.identity if tls is not None and tls.identity == CALLER else ""
    authority = question.authority or cluster.name.replace("|", "_.")  # which no authority may have
    return _Key(cluster.name, host.key, tls, identity, authority)

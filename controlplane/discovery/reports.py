"""The Reports service: what each node's agent says about its instances, their health, the hosts that it ejects and its
circuit breakers.

Owns:   one report stream: hello first, the checks against certificate and grant, acknowledgement.
Not:    parsing (report_values.py), keys and leases (presence.py), questions to the agent (agent_desk).
Source: proto/mesh/api/v1/report.proto; decisions 13 and 16.

    HELLO --hello--> REPORTING --end of stream, error, or silence of SILENCE_S--> the lease runs out

Invariants: one machine reports for a node, on whatever replica: while one address holds the claim (presence), another
        is refused, so that two agents with one name do not delete each other's instances in turn.
        A report is acknowledged only after it is in the store. A store that is away ends the stream with
        UNAVAILABLE: the agent sends its full sets again on the next one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import NoReturn

import grpc

from controlplane.ca.grants import NodeGrant, grant_of
from controlplane.ca.peers import require_node
from controlplane.discovery.admission import Gate
from controlplane.discovery.agent_desk import AgentDesk, Line
from controlplane.discovery.permission import permitted
from controlplane.discovery.presence import LEASE_S, ExistingKeys, Presence
from controlplane.discovery.report_values import breakers_of, ejections_of, instances_of, node_of
from controlplane.distribution.breakers import EVENTS, BreakerRow, BreakerTable
from controlplane.distribution.events import EventLog
from controlplane.registry.instances import Ejection, Node
from controlplane.store.keys import ejection_key
from controlplane.store.protocol import ConfigStore
from mesh.api.v1 import report_pb2, report_pb2_grpc
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import bind, get_logger

_log = get_logger(__name__)

SILENCE_S = float(LEASE_S)  # agents send a heartbeat every 5 s
_Context = grpc.aio.ServicerContext[report_pb2.AgentReport, report_pb2.ReportReply]
_STATUS = {
    ErrorCode.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.CONFLICT: grpc.StatusCode.ABORTED,
}


class ReportsService(report_pb2_grpc.ReportsServicer):
    """For the mTLS port only: the node is the certificate's."""

    def __init__(
        self,
        store: ConfigStore,
        *,
        trust_domain: str,
        existing: ExistingKeys,
        gate: Gate,
        events: EventLog,
        clock: Clock,
        desk: AgentDesk | None = None,
        breakers: BreakerTable | None = None,
    ) -> None:
        self.desk = desk or AgentDesk()
        self.breakers = breakers if breakers is not None else BreakerTable()
        self._store = store
        self._trust_domain = trust_domain
        self._existing = existing
        self._gate = gate
        self._events = events
        self._clock = clock

    async def Report(  # type: ignore[override]  # grpc.aio takes a coroutine too: questions are written in between
        self, request_iterator: AsyncIterator[report_pb2.AgentReport], context: _Context
    ) -> None:
        """One agent's stream."""
        name = ""
        try:
            name = require_node(context.auth_context(), self._trust_domain)
            bind(node=name)
            first = await _next(request_iterator)
            if first is None:
                return
            node = _hello(first, name)
            presence = Presence(self._store, node, existing=self._existing, clock=self._clock)
            await presence.announce()
            replies = _Replies(context)
            await replies.write(report_pb2.ReportReply(acknowledged=first.sequence))
            line = self.desk.connect(name, replies.write)
            reporter = _Reporter(node, presence, self, line)
            try:
                while (report := await _next(request_iterator)) is not None:
                    problems = await reporter.take(report)
                    await replies.write(report_pb2.ReportReply(acknowledged=report.sequence, problems=problems))
            finally:
                if self.desk.disconnect(name, line):
                    self.breakers.forget(name)
        except MeshError as error:
            if error.code is ErrorCode.CONFLICT:
                self._events.add(self._clock.wall(), "NodeNameTaken", f"node {name}", error.message)
            _log.warning("report stream ended", peer=context.peer(), reason=str(error))
            await _abort(context, error)

    async def grant_of(self, node: str) -> NodeGrant | None:
        """What the node may claim, as it is now."""
        return await grant_of(self._store, node)

    def existing_keys(self, node: str) -> Iterable[str]:
        """What the store holds of the node on leases."""
        return self._existing(node)

    def registered(self, node: str) -> None:
        """The node's instances are in the store."""
        self._gate.saw(node)

    def note_ejections(self, node: str, begun: Iterable[Ejection], ended: Iterable[Ejection]) -> None:
        """Tell people what a node ejects and takes back."""
        for item in begun:
            kind = "HostEjected" if item.enforced else "EjectionNotEnforced"
            text = f"{item.cluster}: {item.reason}: {item.detail} {item.blocked_by}".rstrip()
            self._events.add(self._clock.wall(), kind, f"endpoint {item.endpoint}", f"by node {node} from {text}")
        for item in ended:
            self._events.add(
                self._clock.wall(), "HostReturned", f"endpoint {item.endpoint}", f"at node {node} to {item.cluster}"
            )

    def note_breakers(self, node: str, changed: Iterable[BreakerRow]) -> None:
        """Tell people of circuit breakers that have another state."""
        for row in changed:
            whose = f" for {row.caller}" if row.caller else ""
            kind = EVENTS[row.state]
            self._events.add(
                self._clock.wall(), kind, f"CircuitBreaker {row.breaker}", f"on node {node}{whose}: {row.why}"
            )


class _Replies:
    """The stream's way back: one message at a time."""

    def __init__(self, context: _Context) -> None:
        self._context = context
        self._turn = asyncio.Lock()

    async def write(self, reply: report_pb2.ReportReply) -> None:
        async with self._turn:
            await self._context.write(reply)


class _Reporter:
    """The state of one stream after hello."""

    def __init__(self, node: Node, presence: Presence, service: ReportsService, line: Line) -> None:
        self._line = line
        self._node = node
        self._presence = presence
        self._service = service
        self._ejections: dict[str, Ejection] = {}
        self._known = frozenset(service.existing_keys(node.name))  # told by an earlier stream: no news

    async def take(self, report: report_pb2.AgentReport) -> list[str]:
        """Store one report. Gives what was refused of it."""
        match report.WhichOneof("body"):
            case "instances":
                problems = await self._take_instances(report.instances)
            case "ejections":
                problems = await self._take_ejections(report.ejections)
            case "breakers":
                problems = self._take_breakers(report.breakers)
            case "heartbeat":
                problems = []
            case "client_status":
                problems = self._service.desk.answered(self._line, report.client_status)
            case _:
                problems = ["found neither instances, ejections nor circuit breakers, nor a heartbeat"]
        await self._presence.keep_alive()
        return problems

    async def _take_instances(self, reported: report_pb2.InstanceSet) -> list[str]:
        found, problems = instances_of(reported.instances, self._node)
        grant = await self._service.grant_of(self._node.name)
        allowed, refused = permitted(grant, self._node.name, found.values())
        problems += refused
        await self._presence.set_instances(allowed)
        self._service.registered(self._node.name)
        for problem in problems:
            _log.warning("part of a report was refused", reason=problem)
        return problems

    async def _take_ejections(self, reported: report_pb2.EjectionSet) -> list[str]:
        found, problems = ejections_of(reported.ejections, self._node.name)
        await self._presence.set_ejections(found)
        now = {ejection_key(item.cluster, item.endpoint, item.node): item for item in found}
        before, self._ejections = self._ejections, now
        known, self._known = self._known, frozenset()
        self._service.note_ejections(
            self._node.name,
            [item for key, item in now.items() if key not in before and key not in known],
            [item for key, item in before.items() if key not in now and item.enforced],
        )
        return problems

    def _take_breakers(self, reported: report_pb2.BreakerSet) -> list[str]:
        found, problems = breakers_of(reported.breakers, self._node.name)
        self._service.note_breakers(self._node.name, self._service.breakers.report(self._node.name, found))
        return problems


def _hello(report: report_pb2.AgentReport, name: str) -> Node:
    if report.WhichOneof("body") != "hello":
        raise MeshError(ErrorCode.INVALID, "expected hello in the first message", subject="report")
    if report.hello.node != name:
        raise MeshError(
            ErrorCode.PERMISSION_DENIED,
            f"found {report.hello.node[:64]!r}, but the client certificate names node {name!r}",
            subject="hello.node",
        )
    try:
        return node_of(report.hello)
    except ValueError as error:
        raise MeshError(ErrorCode.INVALID, str(error), subject="hello") from error


async def _next(reports: AsyncIterator[report_pb2.AgentReport]) -> report_pb2.AgentReport | None:
    try:
        async with asyncio.timeout(SILENCE_S):
            return await anext(reports, None)
    except TimeoutError as error:
        raise MeshError(ErrorCode.TIMEOUT, f"no report or heartbeat for {SILENCE_S:g} s", subject="report") from error


async def _abort(context: _Context, error: MeshError) -> NoReturn:
    await context.abort(_STATUS.get(error.code, grpc.StatusCode.UNAVAILABLE), str(error))

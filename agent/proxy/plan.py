"""What a route does to the head of its requests and answers, compiled at its first request.

Owns:   configured header operations at all levels in their order, rewrites of path and host, attempt counts, what is
        hashed and the cookie that is given for it.
Not:    the parts (agent.filters.header_operations, agent.filters.hash_policy, agent.router.rewrites), retries, what
        every request gets (agent.filters.request_headers).
Source: data-plane.md 1.9: operations of weighted cluster, route, virtual host and configuration, in this order or the
        reverse; then path and host are rewritten, so that operations see the originals.
Invariant: a route that changes nothing costs two comparisons per request.
"""

from typing import TYPE_CHECKING

from agent.cluster.load_balancing import HASHED
from agent.codec.head import Headers, RequestHead, ResponseHead
from agent.filters import envoy_headers
from agent.filters.hash_policy import HashPolicies
from agent.filters.header_operations import Operations
from agent.filters.subject import FormatError
from agent.model.route import Forward, HeaderOps, WeightedCluster
from agent.router.table import Match
from mesh.logs import get_logger

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

_FORWARDED_HOST = b"x-forwarded-host"
_SET_COOKIE = b"set-cookie"
_log = get_logger(__name__)


class RoutePlan:
    """One per route. `changes_request` and `changes_response`: whether the methods do anything."""

    __slots__ = (
        "_cluster_request",
        "_cluster_response",
        "_forward",
        "_hashing",
        "_match",
        "_request",
        "_response",
        "changes_request",
        "changes_response",
        "counts_attempts",
        "tells_attempts",
    )

    def __init__(self, match: Match) -> None:
        action = match.route.action
        self._match = match
        self._forward = action if isinstance(action, Forward) else None
        self._request = tuple(_compiled(ops, match) for ops in match.request_headers)
        self._response = tuple(_compiled(ops, match) for ops in match.response_headers)
        # By identity: the route, and so the plan, holds them.
        clusters = self._forward.clusters if self._forward is not None else ()
        self._cluster_request = _by_cluster({id(own): own.request_headers for own in clusters}, match)
        self._cluster_response = _by_cluster({id(own): own.response_headers for own in clusters}, match)
        policies = self._forward.hash_policies if self._forward is not None else ()
        self._hashing = HashPolicies(policies) if policies else None
        self.counts_attempts = match.virtual_host.include_attempt_count
        self.tells_attempts = match.virtual_host.include_attempt_count_in_response
        gives_cookies = self._hashing is not None and self._hashing.gives_cookies
        self.changes_response = bool(self._response or self._cluster_response or self.tells_attempts or gives_cookies)
        self.changes_request = bool(self._request or self._cluster_request or match.rewrite) or any(
            own.host_rewrite or (self._forward is not None and self._forward.host_rewrite) for own in clusters
        )

    def change_request(self, exchange: "Exchange") -> None:
        """Do to the request what is configured. Once per request, before its first try."""
        head, choice = exchange.head, exchange.choice
        assert choice is not None
        if self._request or self._cluster_request:
            self._apply(self._request, self._cluster_request, head.headers, exchange)
        rewrite = self._match.rewrite
        if rewrite is not None:
            head.headers.set(envoy_headers.ORIGINAL_PATH, head.path)
            head.path = rewrite.apply(head.path)
        self._rewrite_host(head, choice)

    def _rewrite_host(self, head: RequestHead, choice: WeightedCluster) -> None:
        """The route's host wins over the cluster's, as in Envoy, which tells of the route's only."""
        forward, headers = self._forward, head.headers
        if choice.host_rewrite:
            head.authority = choice.host_rewrite.encode()
        if forward is not None and forward.host_rewrite:
            if forward.append_x_forwarded_host:
                before = headers.index.get(_FORWARDED_HOST)
                headers.set(_FORWARDED_HOST, head.authority if before is None else before + b"," + head.authority)
            headers.set(envoy_headers.ORIGINAL_HOST, head.authority)
            head.authority = forward.host_rewrite.encode()
        headers.set(b"host", head.authority)

    def change_response(self, exchange: "Exchange", head: ResponseHead) -> None:
        """Do to an answer, a host's or our own, what is configured."""
        self._apply(self._response, self._cluster_response, head.headers, exchange)
        if self._hashing is not None and self._hashing.gives_cookies and exchange.response is head:
            self._give_cookie(exchange, head)
        if self.tells_attempts and exchange.attempts:
            head.headers.set(envoy_headers.ATTEMPT_COUNT, b"%d" % exchange.attempts)

    def hash_of(self, exchange: "Exchange") -> int | None:
        """What the host of a request is chosen by, where its cluster hashes; None when there is nothing to hash."""
        return self._hashing.hash_of(exchange) if self._hashing is not None else None

    def _give_cookie(self, exchange: "Exchange", head: ResponseHead) -> None:
        """The client keeps to its host from now on."""
        if self._hashing is not None and exchange.cluster.config.lb_policy in HASHED:
            cookie = self._hashing.cookie_for(exchange)
            if cookie:
                head.headers.append(_SET_COOKIE, cookie)

    def _apply(
        self,
        levels: tuple[Operations, ...],
        by_cluster: dict[int, Operations],
        headers: Headers,
        exchange: "Exchange",
    ) -> None:
        own = by_cluster.get(id(exchange.choice)) if by_cluster else None
        if own is not None:
            own.apply(headers, exchange)
        for level in levels:
            level.apply(headers, exchange)


def plan_of(match: Match) -> RoutePlan:
    """The plan of a match, made when it is asked for first."""
    plan: RoutePlan | None = match.plan
    if plan is None:
        plan = match.plan = RoutePlan(match)
    return plan


def _by_cluster(levels: dict[int, HeaderOps], match: Match) -> dict[int, Operations]:
    return {key: _compiled(ops, match) for key, ops in levels.items() if ops.add or ops.remove}


def _compiled(ops: HeaderOps, match: Match) -> Operations:
    """Operations that cannot be used do nothing; the requests of the route must not suffer for it."""
    try:
        return Operations(ops)
    except FormatError as error:
        _log.error("header operations cannot be used", route=match.route.name, error=str(error))
        return Operations(HeaderOps())

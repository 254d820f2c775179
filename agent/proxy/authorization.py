"""RBAC: requests and connections that may not be are denied.

Not:    which may (agent.filters.rbac).
Source: data-plane.md 1.10; Envoy's http and network rbac filters.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.filters import forwarded
from agent.filters.address_operators import downstream_host
from agent.filters.client_certificate import subject_name
from agent.filters.metadata import Metadata
from agent.filters.rbac import NO_MATCH, Asking, CompiledRules, Verdict
from agent.model.rbac import Rbac, RbacRules
from agent.proxy import answers
from agent.proxy.stages import Stage
from agent.stats import names
from agent.stats.groups import Group
from agent.stats.names import rbac_group, rbac_shadow_group
from agent.upstream.tls import peer_names

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

FILTER: Final = "envoy.filters.http.rbac"
_COMMON: Final = "envoy.common"
_FORBIDDEN: Final = 403
_BODY: Final = b"RBAC: access denied"


class Client(Protocol):
    """A connection that came in."""

    @property
    def peer_uris(self) -> frozenset[str]: ...
    @property
    def peer_address(self) -> str: ...
    @property
    def local_address(self) -> str: ...
    @property
    def secure(self) -> bool: ...
    @property
    def transport(self) -> Any: ...


def names_of(client: Client) -> tuple[bytes, ...]:
    """What the client's verified certificate calls it: its URIs, else its DNS names, else its subject; () without."""
    if client.peer_uris:
        return tuple(uri.encode() for uri in sorted(client.peer_uris))
    if not client.secure:
        return ()
    _, dns = peer_names(client.transport)
    if dns:
        return tuple(name.encode() for name in sorted(dns))
    tls_object = client.transport.get_extra_info("ssl_object")
    found: dict[str, Any] = (tls_object.getpeercert() if tls_object is not None else None) or {}
    return (subject_name(found["subject"]).encode("utf-8", "replace"),) if "subject" in found else ()


def asking(exchange: "Exchange") -> Asking:
    """The facts about a request, for all filters that it passes."""
    passage, connection = exchange.passage, exchange.connection
    assert passage is not None
    if passage.asking is None:
        if connection.names is None:
            connection.names = names_of(connection)
        passage.asking = Asking(
            exchange.head,
            connection.peer_address,
            downstream_host(exchange),
            connection.local_address,
            connection.names,
            passage.metadata,
        )
    return passage.asking


def dotted(prefix: str) -> str:
    """A part of a statistic's name, with a dot behind it unless it is empty."""
    return f"{prefix}." if prefix and not prefix.endswith(".") else prefix


class RbacStage(Stage):
    """One filter's rules."""

    __slots__ = ("_enforced", "_key", "_shadow", "_shadow_key", "_shadow_prefix")

    def __init__(self, config: Rbac) -> None:
        """Raises re2.error for a matcher with a bad regex."""
        self._enforced = CompiledRules(config.rules) if config.rules is not None else None
        self._shadow = CompiledRules(config.shadow) if config.shadow is not None else None
        self._key = f"rbac.{dotted(config.prefix)}"
        self._shadow_prefix, self._shadow_key = config.shadow_prefix, f"rbac.{dotted(config.shadow_prefix)}shadow"

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        facts = asking(exchange)
        if self._shadow is not None:
            self._note(exchange, facts.metadata, self._shadow.verdict(facts))
        enforced = self._enforced
        if enforced is None:
            return True
        verdict = enforced.verdict(facts)
        if enforced.logs:
            facts.metadata.setdefault(_COMMON, {})["access_log_hint"] = verdict.policy != NO_MATCH
        key = self._key
        group = exchange.chain.filters.group(key, lambda own: rbac_group(f"http.{own}.{key}"))
        group.counts[names.RBAC_ALLOWED if verdict.allowed else names.RBAC_DENIED] += 1
        if verdict.allowed:
            return True
        details = f"rbac_access_denied_matched_policy[{'_'.join(verdict.policy.split()) or 'none'}]"
        answers.own(exchange, _FORBIDDEN, _BODY, "", details, ())
        return False

    def _note(self, exchange: "Exchange", metadata: Metadata, verdict: Verdict) -> None:
        """Count what the shadow rules would have decided, and tell it to the filters behind."""
        prefix = self._shadow_prefix
        group = exchange.chain.filters.group(
            self._shadow_key, lambda own: rbac_shadow_group(f"http.{own}.rbac.{dotted(prefix)}")
        )
        group.counts[names.RBAC_ALLOWED if verdict.allowed else names.RBAC_DENIED] += 1
        told = metadata.setdefault(FILTER, {})
        told[f"{prefix}shadow_engine_result"] = "allowed" if verdict.allowed else "denied"
        if verdict.policy != NO_MATCH:
            told[f"{prefix}shadow_effective_policy_id"] = verdict.policy


class ConnectionGuard:
    """The RBAC filters before a TCP proxy, in order."""

    __slots__ = ("_filters",)

    def __init__(self, filters: tuple[tuple[Rbac, Group, Group], ...]) -> None:
        """(rules, counts, counts of shadow rules) of each. Raises re2.error for a matcher with a bad regex."""
        self._filters = tuple(
            (_compiled(config.rules), _compiled(config.shadow), counts, shadow) for config, counts, shadow in filters
        )

    def denies(self, client: Client) -> str:
        """The name of the policy, or "none", by which a connection may not be; "" when it may."""
        if not self._filters:
            return ""
        address = client.peer_address
        facts = Asking(None, address, forwarded.host_of(address), client.local_address, names_of(client), {})
        for rules, shadow, counts, shadow_counts in self._filters:
            if shadow is not None:
                _count(shadow_counts, shadow.verdict(facts))
            verdict = rules.verdict(facts) if rules is not None else None
            if verdict is not None:
                _count(counts, verdict)
                if not verdict.allowed:
                    return verdict.policy or "none"
        return ""


def _compiled(rules: RbacRules | None) -> CompiledRules | None:
    return CompiledRules(rules) if rules is not None else None


def _count(group: Group, verdict: Verdict) -> None:
    group.counts[names.RBAC_ALLOWED if verdict.allowed else names.RBAC_DENIED] += 1

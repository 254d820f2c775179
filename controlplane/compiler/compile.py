"""The compiler's front: from a MeshState to resources per scope and per proxy, and to conditions.

Owns:   what is remembered between calls, and for how long.
Not:    any rule of the compilation (scopes, proxies, findings).
Source: design section 5 ("plan and build").

Invariants: the result depends on the arguments only. The same objects are returned while nothing relevant changed:
        Compiled, the mapping of each type, each Resource. `builds` counts the resources that were really made, by
        message name.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from controlplane.compiler.circuit_breaker_findings import breaker_findings, is_breaker
from controlplane.compiler.credential_findings import credential_findings, names_credentials
from controlplane.compiler.findings import host_findings, object_findings, peer_findings
from controlplane.compiler.gateway_api_status import gateway_api_findings
from controlplane.compiler.gateway_findings import bound_findings, gateway_findings, is_bound, limit_findings
from controlplane.compiler.guard_findings import depends_on_others, guard_object_findings
from controlplane.compiler.memo import Memo
from controlplane.compiler.object_findings import selector_findings, selector_of
from controlplane.compiler.proxies import ProxyCompiler
from controlplane.compiler.scopes import ScopeCompiler
from controlplane.compiler.types import Compiled, Condition
from controlplane.model.mesh_state import MeshState
from controlplane.model.persistent import PersistentMap
from controlplane.model.proxy import Proxy, ProxyScope
from controlplane.model.views import ServiceView
from controlplane.model.workloads import Workloads
from controlplane.policy.kinds import GATEWAY
from controlplane.policy.objects import PolicyObject
from mesh.vocabulary import ObjectRef

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Objects whose findings depend on others: which they are, and the findings of one.
_DEPENDENT: tuple[
    tuple[Callable[[PolicyObject], object], Callable[[PolicyObject, MeshState], Iterable[Condition]]], ...
] = (
    (selector_of, selector_findings),
    (names_credentials, credential_findings),
    (is_bound, bound_findings),
    (is_breaker, breaker_findings),
    (depends_on_others, guard_object_findings),
)
_SHOWN = 8  # messages of one condition
_SCOPES = 4096
_PROXIES = 8192


class Compiler:
    """One per process. Not thread-safe."""

    def __init__(self, memo: Memo | None = None) -> None:
        self._memo = Memo() if memo is None else memo
        self._scopes: OrderedDict[ProxyScope, ScopeCompiler] = OrderedDict()
        self._proxies: OrderedDict[Proxy, ProxyCompiler] = OrderedDict()
        self._findings = Findings()

    @property
    def builds(self) -> Counter[str]:
        """How many resources were built so far, by message name."""
        return self._memo.builds

    def sibling(self) -> "Compiler":
        """A compiler for another MeshState at the same time; what both build from equal inputs is one Resource."""
        return Compiler(self._memo)

    def compile_scope(self, mesh: MeshState, scope: ProxyScope) -> Compiled:
        """Clusters, assignments and routes for every proxy of the scope; for gRPC the Listeners too."""
        known = _recent(self._scopes, scope, lambda: ScopeCompiler(scope, self._memo), _SCOPES)
        return known.compile(mesh)

    def compile_proxy(self, mesh: MeshState, proxy: Proxy) -> Compiled:
        """The proxy's own listeners and inbound clusters."""
        known = _recent(self._proxies, proxy, lambda: ProxyCompiler(proxy, self._memo), _PROXIES)
        return known.compile(mesh)

    def conditions(self, mesh: MeshState) -> tuple[Condition, ...]:
        """All conditions, sorted, at most one per object and type.

        Those that depend on connected proxies are there as far as their scopes were compiled from this very state.
        """
        found = self._findings.of(mesh)
        extra = {
            item
            for known in (
                *(scope.compiled for scope in self._scopes.values() if scope.views is mesh.views),
                *(proxy.compiled for proxy in self._proxies.values() if proxy.revision == mesh.revision),
            )
            for item in known.conditions
        }
        return merged({*found, *extra}) if extra else found


class Findings:
    """The conditions of the latest state, renewed where objects, views or workloads changed."""

    def __init__(self) -> None:
        self._objects: PersistentMap[ObjectRef, PolicyObject] = PersistentMap()
        self._views: PersistentMap[str, ServiceView] = PersistentMap()
        self._workloads = Workloads()
        self._by_object: dict[ObjectRef, tuple[Condition, ...]] = {}
        self._by_host: dict[str, tuple[Condition, ...]] = {}
        self._dependent: tuple[dict[ObjectRef, PolicyObject], ...] = tuple({} for _ in _DEPENDENT)
        self._jwks: PersistentMap[str, str] = PersistentMap()
        self._all: tuple[Condition, ...] = ()

    def of(self, mesh: MeshState) -> tuple[Condition, ...]:
        """The conditions of `mesh`; the same object while nothing changed."""
        known = (self._objects, self._views, self._workloads, self._jwks)
        # A workload that no service has changes no view, but selectors select it.
        if any(now is not then for now, then in zip(_seen(mesh), known, strict=True)):
            combined = merged(self.each(mesh))
            self._all = self._all if combined == self._all else combined
        return self._all

    def each(self, mesh: MeshState) -> set[Condition]:
        """The same one by one: an object may have several of one type."""
        for ref in mesh.objects.changed_since(self._objects):
            item = mesh.objects.get(ref)
            _note(self._by_object, ref, tuple(_own_findings(item)) if item is not None else ())
            for known, (is_one, _) in zip(self._dependent, _DEPENDENT, strict=True):
                _keep(known, ref, item if item is not None and is_one(item) else None)
        for host in mesh.views.changed_since(self._views):
            view = mesh.views.get(host)
            _note(self._by_host, host, tuple(host_findings(view, mesh.settings)) if view is not None else ())
        self._objects, self._views, self._workloads, self._jwks = _seen(mesh)
        found = {item for own in (*self._by_object.values(), *self._by_host.values()) for item in own}
        for namespace in mesh.peer_namespaces():
            in_root = namespace == mesh.settings.root_namespace
            found.update(peer_findings(mesh.peer_authentications(namespace), in_root=in_root))
        for rules, (_, findings_of) in zip(self._dependent, _DEPENDENT, strict=True):
            found.update(item for rule in rules.values() for item in findings_of(rule, mesh))
        found.update(gateway_findings(mesh))
        found.update(gateway_api_findings(mesh))
        return found


def _seen(
    mesh: MeshState,
) -> tuple[
    PersistentMap[ObjectRef, PolicyObject], PersistentMap[str, ServiceView], Workloads, PersistentMap[str, str]
]:  # fmt: skip
    """What findings depend on."""
    return mesh.objects, mesh.views, mesh.workloads, mesh.jwks


def _own_findings(item: PolicyObject) -> Iterator[Condition]:
    yield from object_findings(item)
    if item.kind is GATEWAY:
        yield from limit_findings(item)


def merged(found: set[Condition]) -> tuple[Condition, ...]:
    """Sorted; several of one type on one object become one, with all messages."""
    by_type: dict[tuple[ObjectRef, str], list[Condition]] = {}
    for item in sorted(found):
        by_type.setdefault((item.ref, item.type), []).append(item)
    return tuple(own[0] if len(own) == 1 else _joined(own) for own in by_type.values())


def _joined(found: list[Condition]) -> Condition:
    first = found[0]
    messages = list(dict.fromkeys(item.message for item in found))
    more = f" and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
    return replace(first, message="; ".join(messages[:_SHOWN]) + more)


def _keep(known: dict[ObjectRef, PolicyObject], ref: ObjectRef, item: PolicyObject | None) -> None:
    if item is not None:
        known[ref] = item
    else:
        known.pop(ref, None)


def _note(known: dict[K, tuple[Condition, ...]], key: K, found: tuple[Condition, ...]) -> None:
    if found:
        known[key] = found
    else:
        known.pop(key, None)


def _recent(known: OrderedDict[K, V], key: K, make: Callable[[], V], size: int) -> V:
    """The value of `key`, made when it is not there; the least recently used go beyond `size`."""
    found = known.get(key)
    if found is None:
        found = known[key] = make()
        if len(known) > size:
            known.popitem(last=False)
    else:
        known.move_to_end(key)
    return found

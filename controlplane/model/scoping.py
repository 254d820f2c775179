"""In which scope a proxy shares resources, and whose routes each of its ports has.

Source: decision 10; design section 5 (ProxyScope: dialect, namespace, locality, the labels that a rule tests).
Invariant: labels that no rule tests never tell two scopes apart.
"""

from collections.abc import Mapping
from functools import lru_cache

from controlplane.model.proxy import Caller, Proxy, ProxyScope
from controlplane.model.views import NodeView
from mesh.vocabulary import Dialect


# Asked for every stream at every change: all arguments are compared by identity or are small.
@lru_cache(maxsize=8192)
def scope_of(proxy: Proxy, node: NodeView | None, tested: frozenset[str]) -> ProxyScope:
    """An agent serves all workloads of its node; any other proxy is one caller. `tested`: label keys."""
    callers = {_own_caller(proxy, tested)}
    if proxy.dialect is Dialect.GOSSAMER:
        local = _local_callers(node, tested)
        # The node-wide port has its own routes only where the workloads disagree or there are none.
        callers = set(local) if len(local) == 1 else callers | set(local)
    return ProxyScope(
        dialect=proxy.dialect,
        callers=tuple(sorted(callers)),
        locality=proxy.locality,
        delta=proxy.delta,
        tls=proxy.tls,
        tls_dir=proxy.tls_dir,
        secrets=proxy.secrets,
    )


def node_wide_caller(proxy: Proxy, node: NodeView | None, tested: frozenset[str]) -> Caller:
    """Whose routes the node-wide port has: those of an agent's workloads when they agree, else the proxy's own."""
    local = _local_callers(node, tested) if proxy.dialect is Dialect.GOSSAMER else ()
    return local[0] if len(local) == 1 else _own_caller(proxy, tested)


def caller(namespace: str, labels: Mapping[str, str], tested: frozenset[str]) -> Caller:
    """The caller with those of its labels that some rule tests."""
    return Caller(namespace, tuple(sorted((key, value) for key, value in labels.items() if key in tested)))


def _local_callers(node: NodeView | None, tested: frozenset[str]) -> tuple[Caller, ...]:
    if node is None:
        return ()
    return tuple(sorted({caller(item.namespace, item.labels, tested) for item in node.instances}))


def _own_caller(proxy: Proxy, tested: frozenset[str]) -> Caller:
    return caller(proxy.namespace, proxy.labels, tested)

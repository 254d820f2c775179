"""The traffic policy that is in effect for one port of a host, or for one of its subsets.

Source: control-plane.md 2.4.4: rule -> port-level settings replace four blocks wholesale -> a subset's policy overrides
        per block.
"""

from dataclasses import dataclass, replace

from controlplane.model.destination_rules import MergedRule
from controlplane.policy.destination_rule import Subset
from controlplane.policy.load_balancer import LoadBalancerSettings
from controlplane.policy.traffic_policy import (
    DEFAULT_CONNECTION_POOL,
    DEFAULT_LOAD_BALANCER,
    ClientTLSSettings,
    ConnectionPoolSettings,
    OutlierDetection,
    ProxyProtocol,
    RetryBudget,
    TrafficPolicy,
    TunnelSettings,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectivePolicy:
    """What is in effect. None: not wanted (outlier detection) or not said (TLS, budget)."""

    load_balancer: LoadBalancerSettings = DEFAULT_LOAD_BALANCER
    connection_pool: ConnectionPoolSettings = DEFAULT_CONNECTION_POOL
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    tunnel: TunnelSettings | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None


NO_POLICY = EffectivePolicy()


def effective_policy(rule: MergedRule, port: int, subset: Subset | None = None) -> EffectivePolicy:
    """The policy for `port` of the rule's host."""
    policy = NO_POLICY if rule.traffic_policy is None else _for_port(rule.traffic_policy, port)
    if subset is not None and subset.traffic_policy is not None:
        policy = _overridden(policy, subset.traffic_policy, port)
    return policy


def _for_port(policy: TrafficPolicy, port: int) -> EffectivePolicy:
    level = policy.port_level(port)
    blocks = policy if level is None else level
    return EffectivePolicy(
        load_balancer=blocks.load_balancer or DEFAULT_LOAD_BALANCER,
        connection_pool=blocks.connection_pool or DEFAULT_CONNECTION_POOL,
        outlier_detection=blocks.outlier_detection,
        tls=blocks.tls,
        tunnel=policy.tunnel,
        proxy_protocol=policy.proxy_protocol,
        retry_budget=policy.retry_budget,
    )


def _overridden(base: EffectivePolicy, policy: TrafficPolicy, port: int) -> EffectivePolicy:
    """A block that the subset has, for this port or for all, replaces that of the rule."""
    level = policy.port_level(port)
    blocks = policy if level is None else level
    return replace(
        base,
        load_balancer=blocks.load_balancer or base.load_balancer,
        connection_pool=blocks.connection_pool or base.connection_pool,
        outlier_detection=blocks.outlier_detection or base.outlier_detection,
        tls=blocks.tls or base.tls,
        tunnel=policy.tunnel or base.tunnel,
        proxy_protocol=policy.proxy_protocol or base.proxy_protocol,
        retry_budget=policy.retry_budget or base.retry_budget,
    )

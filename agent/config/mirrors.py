"""Mirrors of a route. Source: route_components.proto RequestMirrorPolicy. There are no spans to be sampled."""

from collections.abc import Sequence

from envoy.config.route.v3.route_components_pb2 import RouteAction

from agent.config.fields import item, only, refuse, within
from agent.config.fractions import runtime_share
from agent.model.route import Mirror
from agent.model.shares import MILLION

_KNOWN = frozenset(
    {"cluster", "runtime_fraction", "trace_sampled", "disable_shadow_host_suffix_append", "host_rewrite_literal"}
)


def mirrors(messages: Sequence[RouteAction.RequestMirrorPolicy], path: str) -> tuple[Mirror, ...]:
    """Those that get anything."""
    found = (_mirror(one, item(path, "request_mirror_policies", index)) for index, one in enumerate(messages))
    return tuple(one for one in found if one.per_million)


def _mirror(message: RouteAction.RequestMirrorPolicy, path: str) -> Mirror:
    only(message, path, _KNOWN)
    if not message.cluster:
        raise refuse(within(path, "cluster"), "", "the name of a cluster")
    share = MILLION
    if message.HasField("runtime_fraction"):
        share = runtime_share(message.runtime_fraction, within(path, "runtime_fraction"))
    return Mirror(
        cluster=message.cluster,
        per_million=share,
        host_suffix=not message.disable_shadow_host_suffix_append,
        host_rewrite=message.host_rewrite_literal,
    )

"""Shares of requests in millionths. Source: envoy/type/v3/percent.proto. No runtime could change them."""

from envoy.config.core.v3.base_pb2 import RuntimeFractionalPercent
from envoy.type.v3.percent_pb2 import FractionalPercent

from agent.config.fields import beyond, within
from agent.model.shares import MILLION

_SCALE = {
    FractionalPercent.HUNDRED: 10_000,
    FractionalPercent.TEN_THOUSAND: 100,
    FractionalPercent.MILLION: 1,
}


def unit_of(share: FractionalPercent, path: str) -> int:
    """How many millionths one of its numerator is."""
    if share.denominator not in _SCALE:
        raise beyond(within(path, "denominator"), str(share.denominator), "a DenominatorType")
    return _SCALE[share.denominator]


def per_million(share: FractionalPercent, path: str) -> int:
    """0 to MILLION."""
    return min(share.numerator * unit_of(share, path), MILLION)


def runtime_share(fraction: RuntimeFractionalPercent, path: str) -> int:
    """The default of a share that a runtime could change."""
    return per_million(fraction.default_value, within(path, "default_value"))

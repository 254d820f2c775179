"""What listeners of the Gateway API are made into: a Gateway, and VirtualServices, that no user wrote.

Owns:   their types, which proxies such a Gateway selects.
Not:    making them (gateway_api).
Source: Istio's label of the proxies of one Gateway.
"""

from collections.abc import Mapping, Set

from controlplane.policy.gateway import Gateway
from controlplane.policy.gateway_api import DEFAULT_LABEL, GATEWAY_NAME
from controlplane.policy.virtual_service import VirtualService

NONE: frozenset[str] = frozenset()


class ListenerGateway(Gateway):
    """One listener of a Gateway of the API. `owner`: the Gateway's name, `index`: of the listener in it."""

    owner: str = ""
    index: int = 0


class ListenerRoutes(VirtualService):
    """The rules of one listener for one host, which is full as it stands."""


def is_served_by(owner: str, labels: Mapping[str, str], named: Set[str]) -> bool:
    """Whether a gateway proxy of the namespace of a Gateway `owner` serves it.

    Its own proxies carry its name; when it has none (`named`: the Gateways of the namespace that have), those do that
    serve all others.
    """
    name = labels.get(GATEWAY_NAME)
    if name is not None:
        return name == owner
    key, value = DEFAULT_LABEL
    return owner not in named and labels.get(key) == value

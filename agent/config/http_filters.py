"""The HTTP filters of a connection manager: the router, and what does nothing by itself.

Source: envoy/extensions/filters/http; http_connection_manager.proto HttpFilter: one that is optional and unknown is
        passed over, one that is disabled waits for a route that enables it (which is refused there).
"""

from collections.abc import Sequence

from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from agent.config import rules
from agent.config.fields import Refused, beyond, item, only, type_of, unpacked, within

_FILTER = frozenset({"name", "typed_config", "is_optional", "disabled"})
_ROUTER_TYPE = Router.DESCRIPTOR.full_name
_ROUTER = frozenset({"dynamic_stats", "suppress_grpc_request_failure_code_stats"})
# Without options they do nothing unless a route configures them.
_INERT: dict[str, type[Cors | HTTPFault]] = {
    Cors.DESCRIPTOR.full_name: Cors,
    HTTPFault.DESCRIPTOR.full_name: HTTPFault,
}


def check_http_filters(messages: Sequence[HttpFilter], path: str) -> None:
    """Refuse every filter that would do something but for the router, which is the last."""
    if not messages or type_of(messages[-1].typed_config) != _ROUTER_TYPE or messages[-1].disabled:
        raise Refused(within(path, "http_filters"), f"found no router at the end, expected {_ROUTER_TYPE}")
    for index, message in enumerate(messages):
        _check(message, item(path, "http_filters", index), last=index == len(messages) - 1)


def _check(message: HttpFilter, path: str, *, last: bool) -> None:
    only(message, path, _FILTER)
    kind, own = type_of(message.typed_config), within(path, "typed_config")
    if last:
        router = unpacked(message.typed_config, Router, own)
        rules.check(router, own)
        only(router, own, _ROUTER)
    elif kind == _ROUTER_TYPE:
        raise Refused(own, f"found {kind}, expected it only at the end")
    elif kind in _INERT:
        if not message.disabled:
            only(unpacked(message.typed_config, _INERT[kind], own), own, frozenset())
    elif not (message.is_optional or message.disabled):
        raise beyond(own, kind or "no filter", _ROUTER_TYPE)

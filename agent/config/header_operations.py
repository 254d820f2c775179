"""Header operations of routes, virtual hosts and destinations.

Source: envoy/config/core/v3/base.proto HeaderValueOption; Envoy refuses to change Host and pseudo headers.
"""

import re
from collections.abc import Iterable
from typing import Protocol

from envoy.config.core.v3.base_pb2 import HeaderValueOption
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer

from agent.config.fields import beyond, item, only, refuse, within
from agent.config.formats import format_string
from agent.filters import hop_by_hop
from agent.model.route import NO_HEADER_OPS, HeaderAction, HeaderOps

FIELDS = frozenset(
    {
        "request_headers_to_add", "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove",
    }
)  # fmt: skip
_FRAMING = hop_by_hop.FIELDS | {b"content-length"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_OPTION = frozenset({"header", "append", "append_action", "keep_empty_value"})


class HasHeaders(Protocol):
    """A RouteConfiguration, VirtualHost, Route or WeightedCluster.ClusterWeight."""

    @property
    def request_headers_to_add(self) -> RepeatedCompositeFieldContainer[HeaderValueOption]: ...
    @property
    def request_headers_to_remove(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def response_headers_to_add(self) -> RepeatedCompositeFieldContainer[HeaderValueOption]: ...
    @property
    def response_headers_to_remove(self) -> RepeatedScalarFieldContainer[str]: ...


def request_operations(message: HasHeaders, path: str) -> HeaderOps:
    """What is done to a request's fields."""
    return _operations(message.request_headers_to_add, message.request_headers_to_remove, path, "request")


def response_operations(message: HasHeaders, path: str) -> HeaderOps:
    """What is done to a response's fields."""
    return _operations(message.response_headers_to_add, message.response_headers_to_remove, path, "response")


def _operations(added: Iterable[HeaderValueOption], removed: Iterable[str], path: str, side: str) -> HeaderOps:
    options = tuple(added)
    add = tuple(_option(option, item(path, f"{side}_headers_to_add", index)) for index, option in enumerate(options))
    kept = frozenset(index for index, option in enumerate(options) if option.keep_empty_value)
    remove = tuple(
        _changeable(name, item(path, f"{side}_headers_to_remove", index)) for index, name in enumerate(removed)
    )
    return HeaderOps(add=add, remove=remove, keep_empty=kept) if add or remove else NO_HEADER_OPS


def _option(message: HeaderValueOption, path: str) -> tuple[str, str, HeaderAction]:
    only(message, path, _OPTION)
    only(message.header, within(path, "header"), frozenset({"key", "value"}))
    _changeable(message.header.key, within(path, "header.key"))
    _check_addition(message, path)
    value = format_string(message.header.value, within(path, "header.value"))
    return message.header.key, value, _action(message, path)


def _check_addition(message: HeaderValueOption, path: str) -> None:
    """Removing what the codec writes is what it does anyway; adding it would have no effect."""
    name = message.header.key
    if not _TOKEN.fullmatch(name):
        raise refuse(within(path, "header.key"), name, "a header name")
    if name.lower().encode() in _FRAMING:
        raise beyond(within(path, "header.key"), name, "no field of the connection or of framing")
    if not _VALUE.fullmatch(message.header.value):
        raise refuse(within(path, "header.value"), message.header.value, "no control characters")


def _action(message: HeaderValueOption, path: str) -> HeaderAction:
    if not message.HasField("append"):
        return HeaderAction(message.append_action)
    if message.append_action:
        raise refuse(within(path, "append"), message.append.value, "it unset beside append_action")
    return HeaderAction.APPEND if message.append.value else HeaderAction.OVERWRITE


def _changeable(name: str, path: str) -> str:
    lower = name.lower()
    if lower.startswith(":") or lower == "host":
        raise refuse(path, name, "neither Host nor a pseudo header")
    return lower

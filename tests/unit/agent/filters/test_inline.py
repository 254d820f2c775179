"""Operators as expressions: they say what the functions of the same names say."""

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from agent.codec.head import Headers, RequestHead
from agent.filters.formats import value_format
from agent.filters.inline import _EXPRESSIONS, expression
from agent.filters.subject import readable
from agent.model.listener import AccessLog
from controlplane.compiler.access_log import FIELDS
from tests.support.log_lines import line_of
from tests.unit.agent.filters.test_formats import headers, subject, unread

TEXTS = sorted({*_EXPRESSIONS, *FIELDS.values(), "%RESP(x-none)%", "%RESP(grpc-status)%", "%REQ(Host)%", "%REQ(a):2%"})


def edge() -> Any:
    """HTTP/1.0 through a believed proxy, rewritten, answered by ourselves after a failure, not all of it text."""
    own = headers(x_forwarded_for="1.1.1.1, 2.2.2.2", x_envoy_original_path="/old", traceparent="00-1-2-01", a='\t"é')
    own.append(b"user-agent", b"caf\xe9\\")
    return subject(
        head=RequestHead(b"PUT", b'/new?"', b"b", own, 0),
        flags="UF,URX",
        transport_failure="refused",
        carrier=None,
        response=None,
        match=SimpleNamespace(route=SimpleNamespace(name=""), virtual_host=SimpleNamespace(name="v")),
        connection=SimpleNamespace(peer_address="", local_address="", peer_uris=frozenset({"b", "a"})),
    )


def tcp() -> Any:
    """A connection of the TCP proxy that is not over."""
    nothing = SimpleNamespace(peer_address="10.9.9.9:4000", local_address="[::1]:15001", peer_uris=frozenset())
    changes = {"head": RequestHead(b"", b"", b"", Headers(), -1), "connection": nothing, "ended": 0.0, "status": 0}
    return SimpleNamespace(**{**vars(unread()), **changes})


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [subject, unread, edge, tcp])
def test_an_expression_says_what_its_function_says(text: str, make: Any) -> None:
    line = line_of(AccessLog(path="f", json_fields=(("k", text),)))
    assert orjson.loads(line(make())) == {"k": readable(value_format(text)(make()))}


def test_what_a_configuration_gives_is_never_compiled() -> None:
    name = "x'+__import__('os').abort()+'"
    line = line_of(AccessLog(path="f", json_fields=((f'"{name}', "%REQ(x'b)%"), ("a", f"{name}%PROTOCOL%"))))
    assert orjson.loads(line(subject())) == {f'"{name}': None, "a": f"{name}HTTP/1.1"}


def test_what_has_no_expression_is_called() -> None:
    assert expression("%REQ(a):2%") == expression("%START_TIME%") == expression("%REQ(host)%")

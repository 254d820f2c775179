"""What one side made of a case, in a form in which two sides can be compared.

Owns:   what is left out of a comparison: values that are chance or time (marked, not dropped), ports, the order of
        fields of different names, the case of names on the wire (one row of the differences, with a test of its own).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.differential.client import Heard
from tests.differential.origin import Seen

Fields = tuple[tuple[str, tuple[str, ...]], ...]
LOG_FIELDS = {
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "path_now": "%REQ(:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "scheme": "%REQ(:SCHEME)%",
    "protocol": "%PROTOCOL%",
    "code": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "host": "%UPSTREAM_HOST%",
    "route": "%ROUTE_NAME%",
    "forwarded": "%REQ(X-FORWARDED-FOR)%",
    "content_type": "%RESP(CONTENT-TYPE)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "termination": "%CONNECTION_TERMINATION_DETAILS%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "other": "%REQ(X-NONE)% %REQ(X-A)%",
    "a_short": "%REQ(X-A):3%",
    "answered": "%RESP(X-NONE?X-R)%",
    "direct": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    "remote": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "local": "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
    "hosts": "%UPSTREAM_HOSTS_ATTEMPTED%",
    "query": "%QUERY_PARAM(q)%",
    "grpc": "%GRPC_STATUS%",
    "grpc_number": "%GRPC_STATUS(NUMBER)%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "kind": "%ACCESS_LOG_TYPE%",
    "flags_long": "%RESPONSE_FLAGS_LONG%",
    "virtual_cluster": "%VIRTUAL_CLUSTER_NAME%",
    "upstream_protocol": "%UPSTREAM_PROTOCOL%",
    "whole_query": "%QUERY_PARAMS%",
    "plain_path": "%PATH(NQ)%",
    "original_path": "%PATH(WQ:ORIG)%",
    "upstream_port": ":%UPSTREAM_REMOTE_PORT%",
    "upstream_name": "%UPSTREAM_HOST_NAME_WITHOUT_PORT%",
    "local_port": ":%DOWNSTREAM_DIRECT_LOCAL_PORT%",
    "grpc_plain": "%GRPC_STATUS_NUMBER%",
    "span": "%SPAN_ID%",
    "set_by_filters": "%DYNAMIC_METADATA(a:b)% %FILTER_STATE(a)%",
    "server_name": "%REQUESTED_SERVER_NAME%",
}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_DATE = re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT")
_TIMES = frozenset({"x-envoy-upstream-service-time"})
_EXPECTED = "x-envoy-expected-rq-timeout-ms"


@dataclass(frozen=True)
class AnswerSeen:
    line: str
    fields: Fields
    body: bytes
    trailers: Fields
    complete: bool


@dataclass(frozen=True)
class RequestSeen:
    line: str
    fields: Fields
    body: bytes
    trailers: Fields
    complete: bool


@dataclass(frozen=True)
class Outcome:
    """`logs`: one dictionary per line."""

    answers: tuple[AnswerSeen, ...]
    raw: bytes
    ended: bool
    requests: tuple[RequestSeen, ...]
    logs: tuple[Mapping[str, Any], ...]

    def flat(self) -> dict[str, Any]:
        """Every single thing that can differ, by its place."""
        found: dict[str, Any] = {"answers": len(self.answers), "raw": self.raw, "ended": self.ended}
        found["requests"] = len(self.requests)
        for name, messages in (("answer", self.answers), ("request", self.requests)):
            for number, message in enumerate(messages):
                own = f"{name}{number}"
                found[f"{own} line"], found[f"{own} body"] = message.line, message.body
                found[f"{own} complete"] = message.complete
                found |= {f"{own} {key}": values for key, values in message.fields}
                found |= {f"{own} trailer {key}": values for key, values in message.trailers}
        for number, line in enumerate(self.logs):
            found |= {f"log{number} {key}": value for key, value in line.items()}
        return found


def outcome(heard: Heard, seen: list[Seen], lines: list[dict[str, Any]], ports: Mapping[int, str]) -> Outcome:
    """`ports`: what to write instead of a port."""
    answers = tuple(
        AnswerSeen(one.line, _fields(one.fields, ports), one.body, _fields(one.trailers, ports), one.complete)
        for one in heard.answers
    )
    requests = tuple(
        RequestSeen(one.line, _fields(one.fields, ports), one.body, _fields(one.trailers, ports), one.complete)
        for one in seen
    )
    logs = tuple({key: _text(value, ports) for key, value in line.items()} for line in lines)
    return Outcome(answers, heard.raw, heard.ended, requests, logs)


def _fields(fields: list[tuple[str, str]], ports: Mapping[int, str]) -> Fields:
    found: dict[str, list[str]] = {}
    for name, value in fields:
        lower = name.lower()
        found.setdefault(lower, []).append(_value(lower, value, ports))
    return tuple((name, tuple(values)) for name, values in sorted(found.items()))


def _value(name: str, value: str, ports: Mapping[int, str]) -> str:
    if name in _TIMES and value.isdigit():
        return "TIME"
    if name == _EXPECTED and value.isdigit() and len(value) > 1:
        return str(round(int(value), -2))  # what is left after a retry's pause
    if name == "date":
        return _DATE.sub("DATE", value)
    return _UUID.sub("ID", str(_text(value, ports)))


def _text(value: Any, ports: Mapping[int, str]) -> Any:
    if not isinstance(value, str):
        return value
    for port, name in ports.items():
        value = value.replace(f":{port}", f":{name}")
    return value

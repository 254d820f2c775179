"""Policies and requests that nobody thought of: generated routes, asked by generated requests."""

import asyncio
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.differential.case import Case, answer, get, post
from tests.differential.differences import judge, showing
from tests.differential.pair import ORIGIN, Pair, World, static_cluster
from tests.support import decoding
from tests.support.decoding import Json
from tests.support.depth import FULL

EXAMPLES = 300 if FULL else 25
# What such policies and requests can show of the known differences.
_MAY_DIFFER = ("answered-before-the-body", "log-hosts-attempted")
BACK_OFF = {"base_interval": "0.001s", "max_interval": "0.002s"}
WORLD = World(
    routes={"r": decoding.configuration(decoding.host(decoding.route({"cluster": "origin"})))},
    clusters=(ORIGIN, static_cluster("refused", "$REFUSED"), static_cluster("empty")),
)
_numbers = count()
_APPENDING = ("APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS")

words = st.sampled_from(["a", "b", "ab", "A", "x-y", "1", "12", "a.b"])
paths = st.lists(words, max_size=3).map(lambda parts: "/" + "/".join(parts))
text_matches = st.one_of(
    st.builds(lambda kind, word, fold: {kind: word, "ignore_case": fold},
              st.sampled_from(["exact", "prefix", "suffix", "contains"]), words, st.booleans()),
    st.sampled_from(["[a-z]+", "a.*", "[0-9]+", ".*b"]).map(lambda regex: {"safe_regex": {"regex": regex}}),
)  # fmt: skip
field_names = st.sampled_from(["x-a", "x-b", ":method", ":authority"])
field_matches = st.one_of(
    st.builds(lambda name, text, invert, missing: {"name": name, "string_match": text, "invert_match": invert,
                                                   "treat_missing_header_as_empty": missing},
              field_names, text_matches, st.booleans(), st.booleans()),
    st.builds(lambda name, there, invert: {"name": name, "present_match": there, "invert_match": invert},
              st.sampled_from(["x-a", "x-b"]), st.booleans(), st.booleans()),
    st.builds(lambda start, size: {"name": "x-b", "range_match": {"start": start, "end": start + size}},
              st.integers(-5, 12), st.integers(1, 9)),
)  # fmt: skip
query_matches = st.one_of(
    st.builds(lambda name, text: {"name": name, "string_match": text}, words, text_matches),
    words.map(lambda name: {"name": name, "present_match": True}),
)
path_matches = st.one_of(
    st.builds(lambda path, exact: {"prefix": path, "case_sensitive": exact}, paths, st.booleans()),
    st.builds(lambda path, exact: {"path": path, "case_sensitive": exact}, paths, st.booleans()),
    paths.filter(lambda path: path != "/" and not path.endswith("/")).map(lambda path: {"path_separated_prefix": path}),
    st.sampled_from(["/a.*", "/[ab]/.*", ".*", "/[a-z]+"]).map(lambda regex: {"safe_regex": {"regex": regex}}),
)
matches = st.builds(
    lambda path, fields, query: {**path, "headers": fields, "query_parameters": query},
    path_matches, st.lists(field_matches, max_size=2), st.lists(query_matches, max_size=1),
)  # fmt: skip
operations = st.lists(
    st.builds(
        lambda key, value, action: {"header": {"key": key, "value": value}, "append_action": action},
        st.sampled_from(["x-a", "x-b", "x-new", "x-other"]),
        st.sampled_from(["v", "%REQ(:PATH)%", "%REQ(X-B)%", "%PROTOCOL%", "%ROUTE_NAME%", "50%%"]),
        st.sampled_from(_APPENDING),
    ),
    max_size=2,
)  # fmt: skip
removals = st.lists(st.sampled_from(["x-a", "x-b", "x-r"]), max_size=1, unique=True)
levels = st.builds(
    lambda asked, answered, dropped, hidden: {
        "request_headers_to_add": asked, "response_headers_to_add": answered,
        "request_headers_to_remove": dropped, "response_headers_to_remove": hidden,
    },
    operations, operations, removals, removals,
)  # fmt: skip
retries = st.builds(
    lambda on, most: {"retry_on": on, "num_retries": most, "retry_back_off": BACK_OFF},
    st.sampled_from(["5xx", "gateway-error", "reset", "connect-failure", "retriable-4xx", "5xx,retriable-4xx"]),
    st.integers(0, 2),
)
forwards = st.builds(
    lambda cluster, rewrite, host, retry: {
        "cluster": cluster,
        **({"prefix_rewrite": rewrite} if rewrite else {}),
        **({"host_rewrite_literal": host} if host else {}),
        **({"retry_policy": retry} if retry else {}),
    },
    st.sampled_from(["origin", "origin", "origin", "refused", "empty"]),
    st.sampled_from(["", "/", "/new", "/new/"]), st.sampled_from(["", "", "other.host"]), st.none() | retries,
)  # fmt: skip
redirects = st.builds(
    lambda where, code, strip: {**where, "response_code": code, "strip_query": strip},
    st.sampled_from([{"https_redirect": True}, {"host_redirect": "h"}, {"port_redirect": 81}, {"path_redirect": "/p"},
                     {"path_redirect": "/p", "host_redirect": "h"}]),
    st.sampled_from(["MOVED_PERMANENTLY", "FOUND", "SEE_OTHER", "TEMPORARY_REDIRECT", "PERMANENT_REDIRECT"]),
    st.booleans(),
)  # fmt: skip
actions = st.one_of(
    forwards.map(lambda action: {"route": action}),
    forwards.map(lambda action: {"route": action}),
    redirects.map(lambda action: {"redirect": action}),
    st.sampled_from([200, 204, 404, 503]).map(lambda status: {"direct_response": {"status": status}}),
)


@st.composite
def routes(draw: st.DrawFn) -> Json:
    match, action, level = draw(matches), draw(actions), draw(levels)
    if "safe_regex" in match and "route" in action:
        action["route"].pop("prefix_rewrite", None)  # Envoy rewrites the whole path then, which is tested elsewhere
    return {"name": f"n{next(_numbers)}", "match": match, **action, **level}


hosts = st.lists(
    st.builds(lambda found, level: {"routes": found, **level}, st.lists(routes(), max_size=4), levels),
    min_size=2, max_size=2,
)  # fmt: skip
asked_fields = st.lists(
    st.builds(lambda name, value: f"{name}: {value}".encode(), st.sampled_from(["X-A", "X-B"]), words),
    max_size=2, unique_by=lambda line: line[:3],
)  # fmt: skip
queries = st.lists(st.builds(lambda name, value: f"{name}={value}", words, words), max_size=2).map(
    lambda pairs: "?" + "&".join(pairs) if pairs else ""
)
authorities = st.sampled_from([b"first", b"second", b"second:81", b"third"])
requests = st.builds(
    lambda path, query, fields, host, method: (
        post((path + query).encode(), b"body", *fields, host=host)
        if method == b"POST"
        else get((path + query).encode(), *fields, host=host, method=method)
    ),
    paths, queries, asked_fields, authorities, st.sampled_from([b"GET", b"GET", b"POST", b"DELETE"]),
)  # fmt: skip
scripts = st.lists(
    st.sampled_from([200, 200, 404, 409, 500, 503]).map(lambda status: answer(status, b"x", b"x-r: 1", b"x-b: 2")),
    min_size=1,
    max_size=3,
)


def _configuration(found: list[Json]) -> Json:
    names = (["first"], ["second", "second:*"])
    made = [
        {"name": f"h{next(_numbers)}", "domains": domains, **host} for domains, host in zip(names, found, strict=True)
    ]
    return decoding.configuration(*made)


@pytest.mark.envoy
@pytest.mark.timeout(900)
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 100, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(found=hosts, asked=st.lists(st.tuples(requests, scripts), min_size=4, max_size=6))
def test_same(pair: Pair, runner: asyncio.Runner, found: list[Json], asked: list[Any]) -> None:
    runner.run(pair.change_routes({"r": _configuration(found)}))
    for request, script in asked:
        case = Case(name=repr(request), send=(request,), origin=tuple(script))
        envoy, agent = runner.run(pair.run(case))
        judge(Case(name=case.name, send=case.send, differs=showing(_MAY_DIFFER, envoy, agent)), envoy, agent)

"""Our own answers against what a real Envoy 1.40 gave for the same: status, body, fields, flags, details."""

from pathlib import Path
from typing import Any

import pytest

from agent.model.cluster import Thresholds
from agent.model.route import DirectResponse, Redirect, RetryPolicy
from tests.support import proxying
from tests.support.proxying import cluster, forward, http_proxy, masked, raw_origin, route, virtual_host

RESET = "upstream_reset_before_response_started{%s}"
REFUSED = RESET % "remote_connection_failure|delayed_connect_error:_Connection_refused"
CONNECT_TEXT = "upstream connect error or disconnect/reset before headers. reset reason: "
RETRIED_TEXT = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: "
RETRIES = RetryPolicy(
    retry_on=frozenset({"5xx", "connect-failure"}), num_retries=2, back_off_base_s=0.001, back_off_max_s=0.001
)
BAD = {
    "clte": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "garbage": b"junk\r\n\r\n",
    "bighdr": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 80 * 1024 + b"\r\ncontent-length: 0\r\n\r\n",
    "s204cl": b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok",
}
# path: (status, body, flags, details, attempts)
GOLDEN: dict[str, tuple[int, str, str, str, int]] = {
    "/none": (404, "", "NR", "route_not_found", 0),
    "/nocluster": (503, "", "NC", "cluster_not_found", 0),
    "/empty": (503, "no healthy upstream", "UH", "no_healthy_upstream", 1),
    "/refused": (503, CONNECT_TEXT + "remote connection failure", "UF", REFUSED, 1),
    "/rconn": (503, RETRIED_TEXT + "remote connection failure", "URX,UF", REFUSED, 3),
    "/timeout/hang": (504, "upstream request timeout", "UT", "response_timeout", 1),
    "/pertry/hang": (504, "upstream request timeout", "URX,UT", "upstream_per_try_timeout", 3),
    "/retry/s503": (503, "fail", "URX", "via_upstream", 3),
    "/maxdur/hang": (504, "downstream duration timeout", "-", "max_duration_timeout", 1),
    "/idle/hang": (504, "stream timeout", "SI", "stream_idle_timeout", 1),
    "/overflow": (503, CONNECT_TEXT + "overflow", "UO", RESET % "overflow", 1),
    "/ok/close0": (503, CONNECT_TEXT + "connection termination", "UC", RESET % "connection_termination", 1),
    "/ok/rst0": (503, CONNECT_TEXT + "connection termination", "UC", RESET % "connection_termination", 1),
    **{f"/ok/{name}": (502, CONNECT_TEXT + "protocol error", "UPE", RESET % "protocol_error", 1) for name in BAD},
    "/direct": (200, "hi", "-", "direct_response", 0),
    "/redir": (301, "", "-", "direct_response", 0),
}
EXTRA = {"/overflow": b"x-envoy-overloaded: true", "/redir": b"location: https://a/redir"}
GRPC = {"/none": 12, "/nocluster": 14, "/empty": 14, "/refused": 14, "/timeout/hang": 14, "/overflow": 14}

ROUTES = virtual_host(
    route("/nocluster", forward("nobody")),
    route("/empty", forward("empty")),
    route("/refused", forward("refused")),
    route("/rconn", forward("refused", retry=RETRIES)),
    route("/timeout", forward("ok", timeout_s=0.05)),
    route(
        "/pertry",
        forward(
            "ok", timeout_s=10.0, retry=RetryPolicy(retry_on=frozenset({"5xx"}), num_retries=2, per_try_timeout_s=0.03)
        ),
    ),
    route("/retry", forward("ok", retry=RETRIES)),
    route("/maxdur", forward("ok", max_stream_duration_s=0.05)),
    route("/idle", forward("ok", timeout_s=0.0, idle_timeout_s=0.05)),
    route("/overflow", forward("full")),
    route("/direct", DirectResponse(status=200, body=b"hi")),
    route("/redir", Redirect(https=True)),
    route("/ok", forward("ok")),
)


def answers() -> dict[str, Any]:
    return {
        "hang": (b"", "hang"),
        "close0": (b"", "close"),
        "rst0": (b"", "reset"),
        "s503": (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfail", "keep"),
        "midclose": (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "close"),
        "midreset": (b"HTTP/1.1 200 OK\r\n\r\nabc", "reset later"),
        "eofbody": (b"HTTP/1.1 200 OK\r\n\r\nabc", "close"),
        "trail": (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
            "keep",
        ),
        "hop": (
            b"HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\nproxy-authenticate: Basic\r\n"
            b"server: mine\r\nx-envoy-upstream-service-time: 99\r\ncontent-length: 2\r\n\r\nok",
            "keep",
        ),
        "e103": (b"HTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "keep"),
        "s304cl": (b'HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: "a"\r\n\r\n', "keep"),
        **{name: (raw, "close") for name, raw in BAD.items()},
    }


def clusters(port: int) -> list[Any]:
    full = Thresholds(max_connections=0, max_pending_requests=0)
    return [cluster("ok", port), cluster("empty"), cluster("refused", 1), cluster("full", port, thresholds=full)]


def body_of(answer: bytes) -> str:
    return answer.partition(b"\r\n\r\n")[2].decode()


def fields_of(answer: bytes) -> list[bytes]:
    return answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]


@pytest.mark.parametrize("path", GOLDEN)
async def test_the_golden_matrix(tmp_path: Path, path: str) -> None:
    status, body, flags, details, attempts = GOLDEN[path]
    async with raw_origin(**answers()) as origin, http_proxy(tmp_path, ROUTES, clusters(origin.port)) as proxy:
        answer = await proxy.get(path)
        (line,) = await proxy.logged(1)
    assert answer.split(b" ")[1] == b"%d" % status
    assert body_of(answer) == body
    fields = fields_of(answer)
    assert b"server: envoy" in fields
    assert b"connection: close" in fields
    assert b"content-length: %d" % len(body) in fields
    if body and details != "via_upstream":
        assert b"content-type: text/plain" in fields
    if path in EXTRA:
        assert EXTRA[path] in fields
    assert sum(field.startswith(b"date: ") for field in fields) == 1
    assert (line["code"], line["flags"], line["details"], line["attempts"]) == (status, flags, details, attempts)


@pytest.mark.parametrize("path", GRPC)
async def test_the_golden_matrix_for_grpc(tmp_path: Path, path: str) -> None:
    _, body, flags, details, _ = GOLDEN[path]
    async with raw_origin(**answers()) as origin, http_proxy(tmp_path, ROUTES, clusters(origin.port)) as proxy:
        answer = await proxy.get(path, b"content-type: application/grpc\r\n")
        (line,) = await proxy.logged(1)
    fields = fields_of(answer)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"grpc-status: %d" % GRPC[path] in fields
    assert b"content-type: application/grpc" in fields
    assert (b"grpc-message: " + body.encode() in fields) == bool(body)
    assert body_of(answer) == ""
    assert (line["code"], line["flags"], line["details"]) == (200, flags, details)


PASSED = {
    "/ok/eofbody": ([b"HTTP/1.1 200 OK", b"transfer-encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n"),
    "/ok/trail": ([b"HTTP/1.1 200 OK", b"trailer: x-t", b"transfer-encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n"),
    "/ok/hop": ([b"HTTP/1.1 200 OK", b"proxy-authenticate: Basic", b"content-length: 2"], b"ok"),
    "/ok/e103": ([b"HTTP/1.1 200 OK", b"content-length: 2"], b"ok"),
    "/ok/s304cl": ([b"HTTP/1.1 304 Not Modified", b"content-length: 5", b'etag: "a"'], b""),
}


@pytest.mark.parametrize("path", PASSED)
async def test_answers_of_hosts_that_pass(tmp_path: Path, path: str) -> None:
    lines, body = PASSED[path]
    async with raw_origin(**answers()) as origin, http_proxy(tmp_path, ROUTES, clusters(origin.port)) as proxy:
        *head, got = masked(await proxy.get(path))
    told = [line for line in head if line.startswith(b"x-envoy-upstream-service-time: ")]
    assert len(told) == 1
    assert told[0] != b"x-envoy-upstream-service-time: 99"
    assert sorted(set(head) - set(told)) == sorted([*lines, b"server: envoy", b"connection: close"])
    assert got == body


async def test_an_answer_that_is_cut_is_never_ended_properly(tmp_path: Path) -> None:
    async with raw_origin(**answers()) as origin, http_proxy(tmp_path, ROUTES, clusters(origin.port)) as proxy:
        answer = await proxy.get("/ok/midclose")
        (line,) = await proxy.logged(1)
    assert body_of(answer) == "abc"
    assert (line["code"], line["flags"]) == (200, "UPE")
    assert line["details"] == "upstream_reset_after_response_started{protocol_error}"


async def test_an_endless_answer_that_is_reset_is_never_ended_properly(tmp_path: Path) -> None:
    async with raw_origin(**answers()) as origin, http_proxy(tmp_path, ROUTES, clusters(origin.port)) as proxy:
        client = await proxy.client()
        client.writer.write(b"GET /ok/midreset HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.until(b"3\r\nabc\r\n")
        origin.released.set()
        assert await client.rest() == b""
        client.writer.close()
        (line,) = await proxy.logged(1)
    assert (line["code"], line["flags"]) == (200, "UPE")
    assert line["details"] == "upstream_reset_after_response_started{protocol_error}"


async def test_the_client_is_gone_first(tmp_path: Path) -> None:
    async with raw_origin(**answers()) as origin, http_proxy(tmp_path, ROUTES, clusters(origin.port)) as proxy:
        client = await proxy.client()
        client.writer.write(b"GET /ok/hang HTTP/1.1\r\nHost: a\r\n\r\n")
        await proxying.until(lambda: bool(origin.seen))
        client.writer.close()
        (line,) = await proxy.logged(1)
    assert (line["code"], line["flags"], line["details"]) == (0, "DC", "downstream_remote_disconnect")


async def test_a_request_that_stays_incomplete(tmp_path: Path) -> None:
    async with (
        raw_origin() as origin,
        http_proxy(tmp_path, ROUTES, clusters(origin.port), stream_idle_timeout_s=0.05) as proxy,
    ):
        head = await proxy.say(b"GET /ok HTTP/1.1\r\nHost")
        body = await proxy.say(b"POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab")
        lines = await proxy.logged(2)
    assert masked(head) == masked(body)
    assert masked(head)[0] == b"HTTP/1.1 408 Request Timeout"
    assert masked(head)[-1] == b"stream timeout"
    assert [(line["code"], line["flags"], line["details"], line["method"]) for line in lines] == [
        (408, "SI", "stream_idle_timeout", None),
        (408, "SI", "stream_idle_timeout", "POST"),
    ]


async def test_counts(tmp_path: Path) -> None:
    """Envoy's names; gauges are back at 0."""
    async with raw_origin(**answers()) as origin, http_proxy(tmp_path, ROUTES, clusters(origin.port)) as proxy:
        for path in ("/ok", "/ok", "/ok/s503", "/none", "/nocluster", "/direct", "/redir", "/refused"):
            await proxy.get(path)
        await proxy.say(b"nonsense\r\n\r\n")
        await proxying.until(lambda: proxy.chain.active == 0)
        report = proxy.runtime.stats.report()
    http = {name.removeprefix("http.s."): value for name, value in report.counters.items()}
    assert http["downstream_cx_total"] == http["downstream_rq_total"] == http["downstream_rq_completed"] == 9
    assert (http["rq_total"], http["downstream_rq_http1_total"]) == (8, 9)  # one is malformed
    assert http["downstream_rq_2xx"] == 3
    assert http["downstream_rq_3xx"] == 1
    assert http["downstream_rq_4xx"] == 2
    assert http["downstream_rq_5xx"] == 3
    assert (http["no_route"], http["no_cluster"], http["rq_direct_response"], http["rq_redirect"]) == (1, 1, 1, 1)
    assert http["downstream_cx_protocol_error"] == 1
    assert report.counters["cluster.ok.upstream_rq_200"] == 2
    assert report.counters["cluster.ok.upstream_rq_503"] == 1
    assert report.counters["cluster.refused.upstream_rq_503"] == 1
    assert sum(report.histograms["cluster.ok.upstream_rq_time"]) == 3
    assert sum(report.histograms["http.s.downstream_rq_time"]) == 9
    assert not any(proxy.chain._stats.counts[place] for place in proxy.chain._stats._layout.gauges)

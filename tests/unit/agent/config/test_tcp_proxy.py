"""The TCP proxy."""

from typing import Any

import pytest

from agent.model.listener import AccessLog, TcpProxy
from mesh.xds import type_url
from tests.support.decoding import listener, refusal, tcp, typed, value

BEYOND = "expected it unset: the agent does not enforce it"


def test_tcp_proxy() -> None:
    log = {"name": "a", "typed_config": typed("access_loggers.file.v3.FileAccessLog", path="/dev/stdout")}
    made = tcp(idle_timeout="0s", access_log=[log], max_connect_attempts=1)
    found = value(type_url.LISTENER, listener({"filters": [made]})).filter_chains[0].network
    assert found == TcpProxy(
        stat_prefix="s", cluster="c", idle_timeout_s=0.0, access_logs=(AccessLog(path="/dev/stdout"),)
    )


def test_the_idle_timeout_is_an_hour() -> None:
    assert value(type_url.LISTENER, listener()).filter_chains[0].network.idle_timeout_s == 3600.0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"max_connect_attempts": 2},
            "max_connect_attempts: found 2, expected 1: the agent does not enforce it",
        ),
        ({"cluster": ""}, "cluster: found '', expected the name of a cluster: the agent does not enforce it"),
        (
            {"cluster": None, "weighted_clusters": {"clusters": [{"name": "a", "weight": 1, "metadata_match": {}}]}},
            f"weighted_clusters.clusters[0].metadata_match: found a value, {BEYOND}",
        ),
        ({"tunneling_config": {"hostname": "h"}}, f"tunneling_config: found a value, {BEYOND}"),
        ({"idle_timeout": "-1s"}, "idle_timeout: found -1s, expected at least 0s"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(fields: dict[str, Any], expected: str) -> None:
    text = refusal(type_url.LISTENER, listener({"filters": [tcp(**fields)]}))
    assert text == f"filter_chains[0].filters[0].typed_config.{expected}"

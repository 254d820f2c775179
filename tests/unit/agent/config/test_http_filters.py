"""HTTP filters."""

from typing import Any

import pytest

from tests.support.decoding import PREFIX, ROUTER, manager_refusal, manager_value, typed

CORS = {"name": "cors", "typed_config": typed("filters.http.cors.v3.Cors")}
FAULT = {"name": "fault", "typed_config": typed("filters.http.fault.v3.HTTPFault")}
UNKNOWN = {"name": "u", "typed_config": {"@type": f"{PREFIX}google.protobuf.Struct", "value": {}}}
BEYOND = "expected it unset: the agent does not enforce it"


@pytest.mark.parametrize(
    "filters",
    [
        [CORS, FAULT, ROUTER],
        [{**UNKNOWN, "is_optional": True}, ROUTER],
        [{**UNKNOWN, "disabled": True}, ROUTER],
        [{**FAULT, "disabled": True}, ROUTER],
        [{"name": "r", "typed_config": typed("filters.http.router.v3.Router", dynamic_stats=True)}],
    ],
    ids=lambda filters: str(len(filters)),
)
def test_what_does_nothing_by_itself(filters: list[Any]) -> None:
    assert manager_value(http_filters=filters) == manager_value()


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (
            [],
            "http_filters: found no router at the end, expected envoy.extensions.filters.http.router.v3.Router",
        ),
        (
            [ROUTER, CORS],
            "http_filters: found no router at the end, expected envoy.extensions.filters.http.router.v3.Router",
        ),
        (
            [{**ROUTER, "disabled": True}],
            "http_filters: found no router at the end, expected envoy.extensions.filters.http.router.v3.Router",
        ),
        (
            [ROUTER, ROUTER],
            "http_filters[0].typed_config: found envoy.extensions.filters.http.router.v3.Router, "
            "expected it only at the end",
        ),
        (
            [UNKNOWN, ROUTER],
            "http_filters[0].typed_config: found google.protobuf.Struct, "
            "expected envoy.extensions.filters.http.router.v3.Router: the agent does not enforce it",
        ),
        (
            [{"name": "fault", "typed_config": typed("filters.http.fault.v3.HTTPFault", max_active_faults=1)}, ROUTER],
            f"http_filters[0].typed_config.max_active_faults: found 1, {BEYOND}",
        ),
        (
            [{"name": "r", "typed_config": typed("filters.http.router.v3.Router", suppress_envoy_headers=True)}],
            f"http_filters[0].typed_config.suppress_envoy_headers: found True, {BEYOND}",
        ),
        (
            [{"name": "f", "config_discovery": {"config_source": {"ads": {}}, "type_urls": ["a"]}}, ROUTER],
            f"http_filters[0].config_discovery: found a value, {BEYOND}",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(filters: list[Any], expected: str) -> None:
    assert manager_refusal(http_filters=filters) == expected

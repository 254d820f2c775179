"""Pairs of strings in metadata, and where resources may come from."""

import pytest
from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from agent.config.config_sources import check_ads
from agent.config.fields import Refused
from agent.config.metadata import string_pairs


def test_pairs_are_sorted() -> None:
    assert string_pairs(ParseDict({"b": "2", "a": ""}, Struct()), "p") == (("a", ""), ("b", "2"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, "number_value"), (True, "bool_value"), (None, "null_value"), ([], "list_value"), ({}, "struct_value")],
    ids=str,
)
def test_other_values(value: object, kind: str) -> None:
    with pytest.raises(Refused) as caught:
        string_pairs(ParseDict({"a": value}, Struct()), "p")
    assert (caught.value.path, caught.value.reason) == ('p["a"]', f"found {kind!r}, expected a string")


@pytest.mark.parametrize("version", [ApiVersion.AUTO, ApiVersion.V3])
def test_ads(version: ApiVersion.ValueType) -> None:
    check_ads(ConfigSource(ads={}, resource_api_version=version), "p")


@pytest.mark.parametrize(
    ("source", "path", "reason"),
    [
        (ConfigSource(), "p", "found no source, expected ads: the agent does not enforce it"),
        (
            ConfigSource(path_config_source={"path": "/x"}),
            "p",
            "found path_config_source, expected ads: the agent does not enforce it",
        ),
        (
            ConfigSource(ads={}, authorities=[{"name": "a"}]),
            "p.authorities",
            "found an entry, expected it unset: the agent does not enforce it",
        ),
    ],
    ids=str,
)
def test_other_sources(source: ConfigSource, path: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        check_ads(source, "p")
    assert (caught.value.path, caught.value.reason) == (path, reason)

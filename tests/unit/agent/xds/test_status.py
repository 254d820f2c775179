"""The agent's resources in the words of CSDS, one of each status."""

from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from envoy.service.status.v3.csds_pb2 import ClientConfig
from pytest import MonkeyPatch  # noqa: PT013

from agent.xds import status
from agent.xds.decoding import decode_resource
from agent.xds.delta import DeltaSession
from agent.xds.status import client_config
from mesh.xds.type_url import SHORT_NAMES
from tests.support import agent_resources

NODE = Node(id="n1", user_agent_name="gossamer-agent")


def session(*responses: tuple[str, ...]) -> DeltaSession:
    """What has got (type, SPEC or -NAME, ...) in this order."""
    made = DeltaSession(NODE, decode_resource)
    made.connected(0.0)
    for short, *words in responses:
        response = DeltaDiscoveryResponse(type_url=agent_resources.URLS[short], nonce="1")
        for word in words:
            if word.startswith("-"):
                response.removed_resources.append(word[1:])
                continue
            name, content, _ = agent_resources.fields_of(short, word)
            resource = response.resources.add(name=name, version=content)
            resource.resource.type_url = response.type_url
            resource.resource.value = agent_resources.body_of(short, word)
        made.received(response.SerializeToString(), 0.0)
    return made


def shown(config: ClientConfig) -> list[tuple[str, str, str, str, str]]:
    """(type, name, status, version in use, refused version)."""
    return [
        (
            SHORT_NAMES[entry.type_url],
            entry.name,
            ClientConfig.GenericXdsConfig.DESCRIPTOR.fields_by_name["client_status"]
            .enum_type.values_by_number[entry.client_status]
            .name,
            entry.version_info,
            entry.error_state.version_info,
        )
        for entry in config.generic_xds_configs
    ]


def test_every_status() -> None:
    made = session(
        ("cds", "good=1", "gone=1", "late=1", "worse=1"), ("eds", "good=1", "-gone"), ("cds", "worse=2!", "bad=1!")
    )
    config = client_config(made, NODE)
    assert shown(config) == [
        ("CDS", "bad", "NACKED", "", "1!"),
        ("CDS", "gone", "ACKED", "1", ""),
        ("CDS", "good", "ACKED", "1", ""),
        ("CDS", "late", "ACKED", "1", ""),
        ("CDS", "worse", "NACKED", "1", "2!"),
        ("EDS", "gone", "DOES_NOT_EXIST", "", ""),
        ("EDS", "good", "ACKED", "1", ""),
        ("EDS", "late", "REQUESTED", "", ""),
        ("EDS", "worse", "REQUESTED", "", ""),
    ]
    assert config.node.id == "n1"
    (bad,) = (entry for entry in config.generic_xds_configs if entry.name == "bad")
    assert "lb_policy" in bad.error_state.details
    assert not any(entry.HasField("xds_config") for entry in config.generic_xds_configs)


def test_contents_are_told_when_they_are_not_too_many(monkeypatch: MonkeyPatch) -> None:
    made = session(("cds", "a=1", "b=1!"))
    (entry, refused, _) = client_config(made, NODE, contents=True).generic_xds_configs
    assert entry.xds_config.value == agent_resources.body_of("cds", "a=1")
    assert entry.xds_config.type_url == entry.type_url
    assert not refused.HasField("xds_config")
    monkeypatch.setattr(status, "MAX_CONTENTS_BYTES", 10)
    assert not any(one.HasField("xds_config") for one in client_config(made, NODE, contents=True).generic_xds_configs)

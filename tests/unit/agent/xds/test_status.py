"""The agent's resources in the words of CSDS, one of each status."""

from envoy.config.core.v3.base_pb2 import Node
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from envoy.service.status.v3.csds_pb2 import ClientConfig
from google.protobuf.json_format import ParseDict
from pytest import MonkeyPatch  # noqa: PT013

from agent.xds import status
from agent.xds.decoding import decode_resource
from agent.xds.delta import DeltaSession
from agent.xds.status import client_config
from mesh.xds import type_url
from mesh.xds.type_url import SHORT_NAMES
from tests.support import agent_resources
from tests.support.secrets import CERTIFICATE, KEY, PRIVATE

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


def test_a_key_goes_nowhere() -> None:
    """The user's certificate is named with its version, and its contents stay."""
    made = DeltaSession(NODE, decode_resource, always={type_url.SECRET: frozenset({"kubernetes://a"})})
    made.connected(0.0)
    fields = {
        "name": "kubernetes://a",
        "tls_certificate": {"certificate_chain": {"inline_string": CERTIFICATE}, "private_key": {"inline_string": KEY}},
    }
    response = DeltaDiscoveryResponse(type_url=type_url.SECRET, nonce="1")
    resource = response.resources.add(name="kubernetes://a", version="1")
    resource.resource.type_url = type_url.SECRET
    resource.resource.value = ParseDict(fields, Secret()).SerializeToString()
    made.received(response.SerializeToString(), 0.0)
    config = client_config(made, NODE, contents=True)
    assert shown(config) == [("SDS", "kubernetes://a", "ACKED", "1", "")]
    assert PRIVATE[0].encode() not in config.SerializeToString()
    assert PRIVATE[0] not in repr(made.all_held())

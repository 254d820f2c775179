"""The only secret that is taken: certificates to trust. A key never comes by xDS (decision 15)."""

from typing import Any

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.json_format import ParseDict

from agent.config.fields import Rejected
from agent.config.secrets import trust_bundle
from agent.xds.decoding import decode_resource
from agent.xds.resources import Decoded
from mesh.xds.type_url import SECRET

PEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"


def body(**fields: Any) -> bytes:
    return ParseDict({"name": "mesh/trust", **fields}, Secret()).SerializeToString()


def test_certificates_are_taken() -> None:
    written = body(validation_context={"trusted_ca": {"inline_string": PEM}})
    assert trust_bundle("mesh/trust", written) == PEM.encode()
    decoded = decode_resource(SECRET, "mesh/trust", written)
    assert isinstance(decoded, Decoded)
    assert (decoded.values, decoded.trust_pem) == ((), PEM.encode())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tls_certificate": {"private_key": {"inline_string": "k"}}}, "found a value, expected validation_context"),
        ({"generic_secret": {}}, "found a value, expected validation_context"),
        ({}, "found a value, expected validation_context"),
        ({"validation_context": {"trusted_ca": {"filename": "/etc/ca.pem"}}}, "expected inline_string or inline_bytes"),
        ({"validation_context": {"trusted_ca": {"inline_string": "x"}}}, "expected certificates in PEM"),
        (
            {"validation_context": {"trusted_ca": {"inline_string": PEM}, "crl": {"inline_string": "x"}}},
            "expected it unset",
        ),
        ({"name": "other", "validation_context": {"trusted_ca": {"inline_string": PEM}}}, "the resource's name"),
    ],
)
def test_everything_else_is_refused(fields: dict[str, Any], reason: str) -> None:
    found = trust_bundle("mesh/trust", body(**fields))
    assert isinstance(found, Rejected)
    assert reason in str(found)


def test_bytes_that_are_no_secret() -> None:
    assert isinstance(trust_bundle("mesh/trust", b"\xff"), Rejected)
    assert "no envoy.extensions" in str(decode_resource(SECRET, "mesh/trust", b"\xff"))

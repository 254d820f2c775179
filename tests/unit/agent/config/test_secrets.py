"""Secrets that are taken: the mesh's roots, and the user's certificates and roots for a gateway's listeners."""

import base64
from typing import Any

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.json_format import ParseDict

from agent.config.fields import Rejected
from agent.config.secrets import secret
from agent.model.tls import KeyPair
from agent.xds.decoding import decode_foreign, decode_resource
from agent.xds.resources import Decoded
from mesh.xds.type_url import SECRET

PRIVATE = b"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"
KEY = base64.b64encode(PRIVATE).decode()
PEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"


def body(**fields: Any) -> bytes:
    return ParseDict({"name": "mesh/trust", **fields}, Secret()).SerializeToString()


def test_certificates_are_taken() -> None:
    written = body(validation_context={"trusted_ca": {"inline_string": PEM}})
    assert secret("mesh/trust", written) == PEM.encode()
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
    found = secret("mesh/trust", body(**fields))
    assert isinstance(found, Rejected)
    assert reason in str(found)


def test_a_certificate_of_the_users() -> None:
    """It is a pair under the secret's name; a foreign server may send one too."""
    fields = {"certificate_chain": {"inline_string": PEM}, "private_key": {"inline_bytes": KEY}}
    written = body(name="kubernetes://a", tls_certificate=fields)
    for decode in (decode_resource, decode_foreign):
        decoded = decode(SECRET, "kubernetes://a", written)
        assert isinstance(decoded, Decoded)
        assert decoded.pair == KeyPair(identity="kubernetes://a", chain_pem=PEM.encode(), key_pem=PRIVATE)
        assert "hunter2" not in repr(decoded)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (
            {"inline_string": "hunter2"},
            "tls_certificate.private_key: found something else (not shown), expected a private",
        ),
        ({"filename": "/etc/key.pem"}, "tls_certificate.private_key: found filename, expected inline_string"),
        ({}, "tls_certificate.private_key.specifier: found none, expected one of filename"),
    ],
)
def test_keys_that_are_none(key: dict[str, Any], reason: str) -> None:
    fields = {"certificate_chain": {"inline_string": PEM}, "private_key": key}
    found = str(secret("kubernetes://a", body(name="kubernetes://a", tls_certificate=fields)))
    assert reason in found
    assert "hunter2" not in found


def test_bytes_that_are_no_secret() -> None:
    assert isinstance(secret("mesh/trust", b"\xff"), Rejected)
    assert "no envoy.extensions" in str(decode_resource(SECRET, "mesh/trust", b"\xff"))

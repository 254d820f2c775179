"""Transport sockets on both sides."""

from typing import Any

import pytest

from agent.model.cluster import TransportSocket
from agent.model.tls import DownstreamTls, UpstreamTls
from mesh.xds import type_url
from tests.support.decoding import (
    MESH_ROOTS,
    SOME_ID,
    certificate,
    cluster_refusal,
    cluster_value,
    downstream_socket,
    listener,
    manager,
    refusal,
    tcp,
    typed,
    upstream_socket,
    value,
)

BEYOND = "expected it unset: the agent does not enforce it"
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
RAW = {"name": "raw", "typed_config": typed("transport_sockets.raw_buffer.v3.RawBuffer")}


def validation(**fields: Any) -> dict[str, Any]:
    return {"validation_context": {**MESH_ROOTS, **fields}}


def sds(name: str) -> dict[str, Any]:
    return {"name": name, "sds_config": {"ads": {}, "resource_api_version": "V3"}}


# Instead of the mesh's certificate and roots.
BY_SECRET: dict[str, Any] = {
    "tls_certificate_provider_instance": None,
    "validation_context": None,
    "tls_certificate_sds_secret_configs": [sds("kubernetes://a")],
}


def names(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"san_type": kind, "matcher": {"exact": name}} for kind, name in pairs]


def accepted(socket: dict[str, Any], *, http: bool = False) -> Any:
    filters = [manager() if http else tcp()]
    return value(type_url.LISTENER, listener({"filters": filters, "transport_socket": socket})).filter_chains[0].tls


# --- towards hosts


@pytest.mark.parametrize("socket", [RAW, {"name": "envoy.transport_sockets.raw_buffer"}], ids=["typed", "by name"])
def test_plaintext(socket: dict[str, Any]) -> None:
    assert cluster_value(transport_socket=socket).tls is None


@pytest.mark.parametrize(
    ("socket", "expected"),
    [
        (upstream_socket(), UpstreamTls(identity="caller", trust="mesh")),
        (
            upstream_socket(
                {
                    "tls_certificate_provider_instance": certificate(SOME_ID),
                    **validation(match_typed_subject_alt_names=names(("URI", SOME_ID), ("DNS", "a.example.com"))),
                    "alpn_protocols": ["http/1.1"],
                },
                sni="a.example.com",
            ),
            UpstreamTls(
                identity=SOME_ID,
                peer_ids=frozenset({SOME_ID}),
                peer_dns=frozenset({"a.example.com"}),
                sni="a.example.com",
                alpn=("http/1.1",),
            ),
        ),
        (
            upstream_socket(validation(match_subject_alt_names=[{"exact": SOME_ID}, {"exact": "b"}])),
            UpstreamTls(peer_ids=frozenset({SOME_ID}), peer_dns=frozenset({"b"})),
        ),
        (
            upstream_socket(
                {"tls_certificate_provider_instance": None, "validation_context": {"system_root_certs": {}}}
            ),
            UpstreamTls(identity="", trust="system"),
        ),
        (
            upstream_socket({"validation_context": {"trusted_ca": {"inline_string": PEM}}}),
            UpstreamTls(trust=PEM),
        ),
        (
            upstream_socket(
                {"tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}},
                max_session_keys=5,
            ),
            UpstreamTls(),
        ),
    ],
    ids=["mesh", "id and names", "older names", "system", "pem", "versions"],
)
def test_upstream(socket: dict[str, Any], expected: UpstreamTls) -> None:
    assert cluster_value(transport_socket=socket).tls == expected


def test_matches() -> None:
    matches = [
        {"name": "tls", "match": {"tlsMode": "gossamer", "a": "b"}, "transport_socket": upstream_socket()},
        {"name": "plain", "match": {}, "transport_socket": RAW},
    ]
    assert cluster_value(transport_socket_matches=matches).transport_sockets == (
        TransportSocket(name="tls", match=(("a", "b"), ("tlsMode", "gossamer")), tls=UpstreamTls()),
        TransportSocket(name="plain"),
    )


@pytest.mark.parametrize(
    ("common", "expected"),
    [
        (
            {"validation_context": None},
            "validation_context: found none, expected one: the agent connects to nobody whom it cannot verify",
        ),
        (
            {"validation_context": {}},
            "validation_context: found no roots, expected some: the agent connects to nobody whom it cannot verify",
        ),
        (
            validation(system_root_certs={}),
            "validation_context: found 'ca_certificate_provider_instance and system_root_certs', "
            "expected one source of roots",
        ),
        (
            {"tls_certificate_provider_instance": certificate("caller", "other")},
            "tls_certificate_provider_instance.instance_name: found 'other', expected mesh",
        ),
        (
            {"tls_certificate_provider_instance": certificate("default")},
            "tls_certificate_provider_instance.certificate_name: found 'default', expected a SPIFFE id",
        ),
        (
            {"validation_context": {"ca_certificate_provider_instance": certificate("x")}},
            "validation_context.ca_certificate_provider_instance.certificate_name: found 'x', expected roots",
        ),
        (
            {"tls_certificate_sds_secret_configs": [{"name": "default"}]},
            f"tls_certificate_sds_secret_configs: found an entry, {BEYOND}",
        ),
        (
            {"tls_certificates": [{"certificate_chain": {"filename": "/a"}}]},
            f"tls_certificates: found an entry, {BEYOND}",
        ),
        (
            {"validation_context": {"trusted_ca": {"filename": "/etc/ssl/ca.pem"}}},
            "validation_context.trusted_ca: found filename, expected inline_string or inline_bytes: "
            "the agent does not enforce it",
        ),
        (
            {"validation_context": {"trusted_ca": {"inline_bytes": "AAAA"}}},
            "validation_context.trusted_ca.inline_bytes: found '\\x00\\x00\\x00', expected certificates in PEM",
        ),
        (
            validation(match_typed_subject_alt_names=[{"san_type": "URI", "matcher": {"prefix": "spiffe://"}}]),
            "validation_context.match_typed_subject_alt_names[0].matcher: found prefix, expected exact: "
            "the agent does not enforce it",
        ),
        (
            validation(match_typed_subject_alt_names=names(("EMAIL", "a@b"))),
            "validation_context.match_typed_subject_alt_names[0].san_type: found EMAIL, expected URI or DNS: "
            "the agent does not enforce it",
        ),
        (
            validation(verify_certificate_hash=["a" * 64]),
            f"validation_context.verify_certificate_hash: found an entry, {BEYOND}",
        ),
        (validation(crl={"filename": "/c"}), f"validation_context.crl: found a value, {BEYOND}"),
        (
            validation(allow_expired_certificate=True),
            f"validation_context.allow_expired_certificate: found True, {BEYOND}",
        ),
        (
            {"tls_params": {"tls_minimum_protocol_version": "TLSv1_3"}},
            "tls_params.tls_minimum_protocol_version: found TLSv1_3, expected TLSv1_2 or less: "
            "the agent does not enforce it",
        ),
        (
            {"tls_params": {"tls_maximum_protocol_version": "TLSv1_2"}},
            "tls_params.tls_maximum_protocol_version: found TLSv1_2, expected TLSv1_3: the agent does not enforce it",
        ),
        ({"tls_params": {"cipher_suites": ["a"]}}, f"tls_params.cipher_suites: found an entry, {BEYOND}"),
        ({"key_log": {"path": "/k"}}, f"key_log: found a value, {BEYOND}"),
        ({"alpn_protocols": ["a", ""]}, "alpn_protocols[1]: found '', expected 1 to 255 ASCII characters"),
    ],
    ids=lambda value: str(value)[:70],
)  # fmt: skip
def test_refused_upstream(common: dict[str, Any], expected: str) -> None:
    text = cluster_refusal(transport_socket=upstream_socket(common))
    assert text == f"transport_socket.typed_config.common_tls_context.{expected}"


@pytest.mark.parametrize(
    ("socket", "expected"),
    [
        (upstream_socket(sni="a..b"), "typed_config.sni: found 'a..b', expected a host name"),
        (upstream_socket(sni="a\x00"), "typed_config.sni: found 'a\\x00', expected a host name"),
        (upstream_socket(allow_renegotiation=True), f"typed_config.allow_renegotiation: found True, {BEYOND}"),
        (
            {"name": "t", "typed_config": typed("filters.http.router.v3.Router")},
            "typed_config: found envoy.extensions.filters.http.router.v3.Router, expected RawBuffer, or TLS: "
            "the agent does not enforce it",
        ),
        ({"name": "tls"}, "typed_config: found tls, expected RawBuffer, or TLS: the agent does not enforce it"),
        (
            downstream_socket(),
            "typed_config: found 'envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext', "
            "expected envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        ),
    ],
    ids=lambda value: str(value)[:70],
)
def test_refused_sockets(socket: dict[str, Any], expected: str) -> None:
    assert cluster_refusal(transport_socket=socket) == f"transport_socket.{expected}"


def test_refused_matches() -> None:
    matches = [{"name": "m", "match": {"a": True}, "transport_socket": RAW}]
    assert cluster_refusal(transport_socket_matches=matches) == (
        "transport_socket_matches[0].match[\"a\"]: found 'bool_value', expected a string"
    )


# --- from clients


@pytest.mark.parametrize(
    ("socket", "http", "expected"),
    [
        (downstream_socket(), False, DownstreamTls(identity=SOME_ID)),
        (
            downstream_socket({"alpn_protocols": ["h2", "http/1.1"]}),
            True,
            DownstreamTls(identity=SOME_ID, alpn=("http/1.1",)),
        ),
        (
            downstream_socket({"alpn_protocols": ["h2"]}),
            False,
            DownstreamTls(identity=SOME_ID, alpn=("h2",)),
        ),
        (
            downstream_socket(validation(match_typed_subject_alt_names=names(("URI", SOME_ID)))),
            True,
            DownstreamTls(identity=SOME_ID, peer_ids=frozenset({SOME_ID})),
        ),
        (
            downstream_socket({"validation_context": None}, require_client_certificate=False),
            False,
            DownstreamTls(identity=SOME_ID, require_client_certificate=False),
        ),
        (
            downstream_socket(
                validation(match_typed_subject_alt_names=names(("DNS", "a"))), require_client_certificate=False
            ),
            True,
            DownstreamTls(
                identity=SOME_ID,
                require_client_certificate=False,
                ask_client_certificate=True,
                peer_dns=frozenset({"a"}),
            ),
        ),
        (
            downstream_socket(
                {
                    **BY_SECRET,
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "cipher_suites": ["AES128-SHA"]},
                    "combined_validation_context": {
                        "default_validation_context": {"match_typed_subject_alt_names": names(("URI", SOME_ID))},
                        "validation_context_sds_secret_config": sds("kubernetes://a-cacert"),
                    },
                },
                require_client_certificate=True,
            ),
            True,
            DownstreamTls(
                secret="kubernetes://a",
                trust_secret="kubernetes://a-cacert",
                peer_ids=frozenset({SOME_ID}),
                min_version="1.3",
                ciphers=("AES128-SHA",),
            ),
        ),
        (
            downstream_socket(
                {**BY_SECRET, "tls_params": {"tls_maximum_protocol_version": "TLSv1_2"}},
                require_client_certificate=False,
            ),
            True,
            DownstreamTls(secret="kubernetes://a", require_client_certificate=False, max_version="1.2"),
        ),
    ],
    ids=[
        "mesh",
        "http offers no h2",
        "bytes pass h2",
        "named clients",
        "server only",
        "clients may show one",
        "the user's secrets",
        "the user's certificate",
    ],
)
def test_downstream(socket: dict[str, Any], http: bool, expected: DownstreamTls) -> None:
    assert accepted(socket, http=http) == expected


@pytest.mark.parametrize(
    ("socket", "expected"),
    [
        (
            downstream_socket({"tls_certificate_provider_instance": None}),
            "common_tls_context.tls_certificate_provider_instance: found none, expected the instance mesh",
        ),
        (
            downstream_socket({"tls_certificate_provider_instance": certificate("caller")}),
            "common_tls_context.tls_certificate_provider_instance.certificate_name: found 'caller', "
            "expected a SPIFFE id",
        ),
        (
            downstream_socket({"validation_context": None}),
            "common_tls_context.validation_context: found none, expected one: a client's certificate is verified",
        ),
        (
            downstream_socket({**BY_SECRET, "tls_certificate_sds_secret_configs": [sds("a"), sds("b")]}),
            "common_tls_context.tls_certificate_sds_secret_configs: found 2 secrets, or a certificate beside them, "
            "expected one certificate: the agent does not enforce it",
        ),
        (
            downstream_socket({**BY_SECRET, "tls_certificate_sds_secret_configs": [sds("")]}),
            "common_tls_context.tls_certificate_sds_secret_configs[0].name: found '', expected at least 1 characters",
        ),
        (
            downstream_socket({**BY_SECRET, "tls_params": {"tls_maximum_protocol_version": "TLSv1_1"}}),
            "common_tls_context.tls_params.tls_maximum_protocol_version: found TLSv1_1, expected TLSv1_2 or TLSv1_3: "
            "the agent does not enforce it",
        ),
        (
            downstream_socket(
                {
                    **BY_SECRET,
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_3",
                        "tls_maximum_protocol_version": "TLSv1_2",
                    },
                }
            ),
            "common_tls_context.tls_params.tls_minimum_protocol_version: found '1.3', "
            "expected at most the maximum, 1.2",
        ),
        (
            downstream_socket({**BY_SECRET, "tls_params": {"cipher_suites": ["[A|B]"]}}),
            "common_tls_context.tls_params.cipher_suites[0]: found [A|B], expected one cipher's name each: "
            "the agent does not enforce it",
        ),
        (
            downstream_socket({"alpn_protocols": ["h2"]}),
            "common_tls_context.alpn_protocols: found h2 only, expected http/1.1: the agent does not enforce it",
        ),
        (downstream_socket(require_sni=True), f"require_sni: found True, {BEYOND}"),
        (downstream_socket(ocsp_staple_policy="MUST_STAPLE"), f"ocsp_staple_policy: found MUST_STAPLE, {BEYOND}"),
        (downstream_socket(session_timeout="-1s"), "session_timeout: found -1s, expected at least 0s"),
    ],
    ids=lambda value: str(value)[:70],
)
def test_refused_downstream(socket: dict[str, Any], expected: str) -> None:
    text = refusal(type_url.LISTENER, listener({"filters": [manager()], "transport_socket": socket}))
    assert text == f"filter_chains[0].transport_socket.typed_config.{expected}"

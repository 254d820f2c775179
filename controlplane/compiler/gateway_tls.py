"""TLS of a gateway's servers: what each shows, and whom it takes.

Owns:   DownstreamTlsContexts of servers that end TLS, which Secrets they need, what of them an agent cannot do.
Not:    where a Secret comes from (secrets), which servers there are (gateways).
Source: istio pilot/pkg/networking/core/listener.go BuildListenerTLSContext; decision 15.

    mode             certificate                      clients
    SIMPLE           Secret c, or files               none asked for
    MUTUAL           Secret c, or files               must show one that chains to c-cacert, or to the file
    OPTIONAL_MUTUAL  Secret c, or files               may show one; then it must chain
    ISTIO_MUTUAL     the mesh's own                   must be of the mesh
"""

from collections.abc import Iterator
from typing import Any

from envoy.config.core.v3.base_pb2 import DataSource, TransportSocket
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsCertificate,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from controlplane.compiler.resources import packed
from controlplane.compiler.secrets import Credential, certificate_name, credential_config, roots_name
from controlplane.compiler.transport_sockets import mesh_downstream
from controlplane.policy.gateway import ServerTLSMode, ServerTLSSettings, TLSCertificate, TLSProtocol
from controlplane.policy.rules.gateway import CIPHERS
from mesh.vocabulary import Dialect

_TLS = "envoy.transport_sockets.tls"
# `Any`, because protobuf's enums are integers to the type checker. Istio's own least version is 1.2.
_VERSIONS: dict[TLSProtocol, Any] = {
    TLSProtocol.TLSV1_0: TlsParameters.TLSv1_0,
    TLSProtocol.TLSV1_1: TlsParameters.TLSv1_1,
    TLSProtocol.TLSV1_2: TlsParameters.TLSv1_2,
    TLSProtocol.TLSV1_3: TlsParameters.TLSv1_3,
}
_OLD = (TLSProtocol.TLSV1_0, TLSProtocol.TLSV1_1)


def needed(settings: ServerTLSSettings, namespace: str) -> Iterator[Credential]:
    """What the server needs of the Secrets in the gateway proxy's namespace."""
    if not settings.mode.shows_own_certificate:
        return
    yield from (_certificate(name, namespace) for name in settings.credentials)
    if settings.mode.verifies_clients and not settings.ca_certificates and settings.roots_credential:
        yield Credential(namespace=namespace, name=settings.roots_credential, roots=True)


def _certificate(written: str, namespace: str) -> Credential:
    """Of `name`, or of `namespace/name`, which only a listener of the Gateway API may say, when it was granted."""
    owner, slash, name = written.rpartition("/")
    return Credential(namespace=owner if slash else namespace, name=name, roots=False, granted=bool(slash))


def beyond_agent(settings: ServerTLSSettings) -> tuple[str, ...]:
    """The fields for which an agent does not serve the server at all: it could not keep what they say."""
    if not settings.mode.shows_own_certificate:
        return ()
    fields = {
        "serverCertificate": settings.server_certificate,
        "privateKey": settings.private_key,
        "tlsCertificates": settings.tls_certificates,
        "caCertificates": settings.mode.verifies_clients and settings.ca_certificates,
        "caCrl": settings.ca_crl,
        "verifyCertificateSpki": settings.verify_certificate_spki,
        "verifyCertificateHash": settings.verify_certificate_hash,
        "credentialNames[1]": len(settings.credential_names) > 1,
        "maxProtocolVersion": settings.max_protocol_version in _OLD,
    }
    return tuple(name for name, value in fields.items() if value)


def server_socket(
    settings: ServerTLSSettings, dialect: Dialect, *, tls_dir: str, identity: str, alpn: tuple[str, ...]
) -> TransportSocket:
    """How the server accepts."""
    if settings.mode is ServerTLSMode.ISTIO_MUTUAL:
        return mesh_downstream(dialect, tls_dir, identity, alpn)
    common = CommonTlsContext(tls_params=_parameters(settings), alpn_protocols=alpn)
    if settings.credentials:
        common.tls_certificate_sds_secret_configs.extend(
            credential_config(certificate_name(name)) for name in settings.credentials
        )
    else:
        common.tls_certificates.extend(_file(pair) for pair in _pairs(settings))
    context = DownstreamTlsContext(common_tls_context=common)
    context.require_client_certificate.value = settings.mode is ServerTLSMode.MUTUAL
    if settings.mode.verifies_clients:
        _verify(context.common_tls_context, settings)
    return TransportSocket(name=_TLS, typed_config=packed(context))


def _pairs(settings: ServerTLSSettings) -> tuple[TLSCertificate, ...]:
    own = TLSCertificate(server_certificate=settings.server_certificate, private_key=settings.private_key)
    return settings.tls_certificates or (own,)


def _file(pair: TLSCertificate) -> TlsCertificate:
    return TlsCertificate(
        certificate_chain=DataSource(filename=pair.server_certificate),
        private_key=DataSource(filename=pair.private_key),
    )


def _verify(common: CommonTlsContext, settings: ServerTLSSettings) -> None:
    checks = CertificateValidationContext(
        match_typed_subject_alt_names=[_name(name) for name in settings.subject_alt_names],
        verify_certificate_spki=settings.verify_certificate_spki,
        verify_certificate_hash=settings.verify_certificate_hash,
    )
    if settings.ca_crl:
        checks.crl.filename = settings.ca_crl
    if settings.ca_certificates:
        checks.trusted_ca.filename = settings.ca_certificates
        common.validation_context.CopyFrom(checks)
        return
    combined = common.combined_validation_context
    combined.default_validation_context.CopyFrom(checks)
    combined.validation_context_sds_secret_config.CopyFrom(credential_config(roots_name(settings.roots_credential)))


def _name(name: str) -> SubjectAltNameMatcher:
    kind = SubjectAltNameMatcher.URI if "://" in name else SubjectAltNameMatcher.DNS
    return SubjectAltNameMatcher(san_type=kind, matcher=StringMatcher(exact=name))


def _parameters(settings: ServerTLSSettings) -> TlsParameters:
    return TlsParameters(
        tls_minimum_protocol_version=_VERSIONS.get(settings.min_protocol_version, TlsParameters.TLSv1_2),
        tls_maximum_protocol_version=_VERSIONS.get(settings.max_protocol_version, TlsParameters.TLS_AUTO),
        cipher_suites=[name for name in settings.cipher_suites if name in CIPHERS],
    )

"""TLS towards and from other proxies, in each dialect's words.

Owns:   transport sockets of clusters and filter chains.
Not:    which mode is in effect (clusters, inbound).
Source: control-plane.md 2.4.8, section 5 rule 32; decisions 9, 15; clients.md for the forms that real clients took.

    dialect    certificate                                  roots
    gossamer   provider instance mesh / caller or SPIFFE id  provider instance mesh / roots
    envoy      SDS file TLS_DIR/identity.yaml, "default"     SDS over ADS, "mesh/trust"; of the user's Secrets too
    grpc       provider instance default                     provider instance default
"""

from collections.abc import Iterable

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import DataSource, TransportSocket, WatchedDirectory
from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource, PathConfigSource
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateProviderPluginInstance,
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsCertificate,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue

from controlplane.compiler.resources import packed
from controlplane.compiler.secrets import certificate_name, credential_config, roots_name, trust_config
from controlplane.policy.traffic_policy import ClientTLSSettings, TLSMode
from mesh.vocabulary import Dialect

TLS_MODE_KEY = "tlsMode"
TLS_MODE_VALUE = "gossamer"
CALLER = "caller"  # the certificate of the workload that the request came from (decision 10)

# Envoy has no word for the machine's own roots, so they are named where Debian and its kin keep them.
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"

_PROVIDER = {Dialect.GOSSAMER: "mesh", Dialect.GRPC: "default"}
_ROOTS = "roots"
_TLS = "envoy.transport_sockets.tls"
_RAW = "envoy.transport_sockets.raw_buffer"


def mesh_upstream(dialect: Dialect, tls_dir: str, peers: Iterable[str], sni: str, alpn: str) -> TransportSocket:
    """mTLS with the mesh's certificates to a peer that must be one of `peers`, if any are named."""
    common = _mesh_context(dialect, tls_dir, CALLER, peers)
    if dialect is not Dialect.GRPC:
        common.alpn_protocols.append(alpn)
    context = UpstreamTlsContext(common_tls_context=common, sni="" if dialect is Dialect.GRPC else sni)
    return TransportSocket(name=_TLS, typed_config=packed(context))


def automatic_matches(mesh: TransportSocket) -> list[Cluster.TransportSocketMatch]:
    """mTLS to endpoints whose metadata says that they take it, plaintext to the others (decision 9)."""
    wanted = Struct()
    wanted.update({TLS_MODE_KEY: TLS_MODE_VALUE})
    plain = TransportSocket(name=_RAW, typed_config=packed(RawBuffer()))
    return [
        Cluster.TransportSocketMatch(name=f"{TLS_MODE_KEY}-{TLS_MODE_VALUE}", match=wanted, transport_socket=mesh),
        Cluster.TransportSocketMatch(name=f"{TLS_MODE_KEY}-disabled", match=Struct(), transport_socket=plain),
    ]


def simple_upstream(
    settings: ClientTLSSettings, host: str, names: Iterable[str], dialect: Dialect, *, credentials: bool = False
) -> TransportSocket:
    """TLS as the user wrote it, SIMPLE or MUTUAL, with files on the proxy's machine or with Secrets (`credentials`).

    A proxy that is not given the Secrets, or reads no files of the user's, has no endpoints; its socket is TLS all the
    same, so that nothing can leave it in clear while the two arrive.
    """
    common = CommonTlsContext(tls_params=_parameters())
    if credentials:
        _set_credentials(common, settings, host, names)
        return TransportSocket(
            name=_TLS,
            typed_config=packed(UpstreamTlsContext(common_tls_context=common, sni=settings.sni or host)),
        )
    if settings.mode is TLSMode.MUTUAL and not settings.credential_name and dialect is Dialect.ENVOY:
        common.tls_certificates.append(
            TlsCertificate(
                certificate_chain=DataSource(filename=settings.client_certificate),
                private_key=DataSource(filename=settings.private_key),
            )
        )
    if not settings.insecure_skip_verify:
        common.validation_context.CopyFrom(_user_validation(settings, host, names, dialect))
    context = UpstreamTlsContext(common_tls_context=common, sni=settings.sni or host)
    return TransportSocket(name=_TLS, typed_config=packed(context))


def mesh_downstream(dialect: Dialect, tls_dir: str, identity: str, alpn: Iterable[str]) -> TransportSocket:
    """mTLS from any peer of the mesh."""
    common = _mesh_context(dialect, tls_dir, identity, ())
    common.alpn_protocols.extend(alpn)
    context = DownstreamTlsContext(common_tls_context=common, require_client_certificate=BoolValue(value=True))
    return TransportSocket(name=_TLS, typed_config=packed(context))


def _mesh_context(dialect: Dialect, tls_dir: str, certificate: str, peers: Iterable[str]) -> CommonTlsContext:
    if dialect is Dialect.ENVOY:
        return _sds_context(tls_dir, peers)
    provider = _PROVIDER[dialect]
    named = certificate if dialect is Dialect.GOSSAMER else ""
    validation = CertificateValidationContext(
        ca_certificate_provider_instance=CertificateProviderPluginInstance(
            instance_name=provider, certificate_name=_ROOTS if dialect is Dialect.GOSSAMER else ""
        )
    )
    context = CommonTlsContext(
        tls_certificate_provider_instance=CertificateProviderPluginInstance(
            instance_name=provider, certificate_name=named
        )
    )
    if dialect is Dialect.GOSSAMER:
        validation.match_typed_subject_alt_names.extend(_uris(peers))
        context.validation_context.CopyFrom(validation)
    else:
        validation.match_subject_alt_names.extend(StringMatcher(exact=peer) for peer in peers)
        context.combined_validation_context.default_validation_context.CopyFrom(validation)
    return context


def _sds_context(tls_dir: str, peers: Iterable[str]) -> CommonTlsContext:
    context = CommonTlsContext(
        tls_params=_parameters(),
        tls_certificate_sds_secret_configs=[_sds(tls_dir, "identity.yaml", "default")],
    )
    combined = context.combined_validation_context
    combined.default_validation_context.match_typed_subject_alt_names.extend(_uris(peers))
    combined.validation_context_sds_secret_config.CopyFrom(trust_config())
    return context


def _sds(tls_dir: str, file: str, secret: str) -> SdsSecretConfig:
    path = PathConfigSource(path=f"{tls_dir}/{file}", watched_directory=WatchedDirectory(path=tls_dir))
    source = ConfigSource(path_config_source=path, resource_api_version=ApiVersion.V3)
    return SdsSecretConfig(name=secret, sds_config=source)


def _set_credentials(
    common: CommonTlsContext, settings: ClientTLSSettings, host: str, names: Iterable[str]
) -> None:  # fmt: skip
    if settings.mode is TLSMode.MUTUAL:
        named = credential_config(certificate_name(settings.credential_name))
        common.tls_certificate_sds_secret_configs.append(named)
    if not settings.insecure_skip_verify:
        combined = common.combined_validation_context
        combined.default_validation_context.match_typed_subject_alt_names.extend(_expected(settings, host, names))
        combined.validation_context_sds_secret_config.CopyFrom(
            credential_config(roots_name(settings.credential_name))
        )  # fmt: skip


def _user_validation(
    settings: ClientTLSSettings, host: str, names: Iterable[str], dialect: Dialect
) -> CertificateValidationContext:
    validation = CertificateValidationContext()
    if dialect is Dialect.ENVOY:
        validation.trusted_ca.filename = settings.ca_certificates or SYSTEM_ROOTS
    else:
        validation.system_root_certs.SetInParent()
    if settings.ca_crl and dialect is Dialect.ENVOY:
        validation.crl.filename = settings.ca_crl
    validation.match_typed_subject_alt_names.extend(_expected(settings, host, names))
    return validation


def _expected(settings: ClientTLSSettings, host: str, names: Iterable[str]) -> list[SubjectAltNameMatcher]:
    """Who the server may be."""
    return [
        SubjectAltNameMatcher(
            san_type=SubjectAltNameMatcher.URI if "://" in name else SubjectAltNameMatcher.DNS,
            matcher=StringMatcher(exact=name),
        )
        for name in tuple(settings.subject_alt_names) or tuple(names) or (settings.sni or host,)
    ]


def _uris(peers: Iterable[str]) -> list[SubjectAltNameMatcher]:
    return [
        SubjectAltNameMatcher(san_type=SubjectAltNameMatcher.URI, matcher=StringMatcher(exact=peer)) for peer in peers
    ]


def _parameters() -> TlsParameters:
    return TlsParameters(tls_minimum_protocol_version=TlsParameters.TLSv1_2)

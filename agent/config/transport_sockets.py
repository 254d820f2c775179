"""Transport sockets: plaintext, or TLS with what the agent itself holds.

Owns:   which certificate is shown, which roots are trusted, which names a peer must have, versions and ciphers of what
        is accepted.
Source: envoy/extensions/transport_sockets/tls/v3; decisions 9, 10, 14; controlplane/compiler/transport_sockets.py for
        the names: provider instance `mesh`, certificate `caller` or a SPIFFE id, roots `roots`.
Invariants: towards a server the agent always verifies the peer, with keys that it made itself. A listener may name
        secrets of the user's, which come by SDS over ADS: one with a certificate, one with roots.

Not refused, since it cannot make a difference here: a lower minimum version than the agent's own (TLS 1.2), how many
sessions are kept, whose ciphers are preferred.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.base_pb2 import TransportSocket as SocketMessage
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateProviderPluginInstance,
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from agent.config import rules
from agent.config.config_sources import check_ads
from agent.config.fields import Refused, beyond, enum_name, item, only, refuse, type_of, unpacked, value_or, within
from agent.config.metadata import string_pairs
from agent.model.cluster import TransportSocket
from agent.model.tls import DownstreamTls, UpstreamTls
from mesh.identity.spiffe import SpiffeId

PROVIDER = "mesh"
ROOTS = "roots"
CALLER = "caller"
SYSTEM = "system"
_RAW_NAME = "envoy.transport_sockets.raw_buffer"
_RAW_TYPE = RawBuffer.DESCRIPTOR.full_name
_COMMON = frozenset({"tls_params", "tls_certificate_provider_instance", "validation_context", "alpn_protocols"})
_UPSTREAM = frozenset({"common_tls_context", "sni", "max_session_keys", "enforce_rsa_key_usage"})
_SDS = frozenset({"tls_certificate_sds_secret_configs", "combined_validation_context"})
_DOWNSTREAM = frozenset(
    {
        "common_tls_context", "require_client_certificate", "session_timeout", "disable_stateful_session_resumption",
        "full_scan_certs_on_sni_mismatch", "prefer_client_ciphers",
    }
)  # fmt: skip
_VALIDATION = frozenset(
    {
        "trusted_ca", "ca_certificate_provider_instance", "system_root_certs", "watched_directory",
        "match_typed_subject_alt_names", "match_subject_alt_names", "only_verify_leaf_cert_crl",
    }
)  # fmt: skip
_PARAMETERS = frozenset({"tls_minimum_protocol_version", "tls_maximum_protocol_version"})
_NEWEST = frozenset({TlsParameters.TLS_AUTO, TlsParameters.TLSv1_3})
_PEM = "-----BEGIN CERTIFICATE-----"
_URI = "://"
_H2 = "h2"


def upstream_tls(message: SocketMessage, path: str) -> UpstreamTls | None:
    """How to connect; None = plaintext."""
    if _is_raw(message, path):
        return None
    own = within(path, "typed_config")
    context = unpacked(message.typed_config, UpstreamTlsContext, own)
    rules.check(context, own)
    only(context, own, _UPSTREAM)
    common, where = context.common_tls_context, within(own, "common_tls_context")
    _check_common(common, where)
    trust, ids, dns = _validation(common, where, needed="the agent connects to nobody whom it cannot verify")
    identity = _certificate(common, where, _caller_or_id) if _has_certificate(common) else ""
    return UpstreamTls(
        identity=identity,
        trust=trust,
        peer_ids=ids,
        peer_dns=dns,
        sni=_sni(context.sni, within(own, "sni")),
        alpn=_protocols(common, where),
    )


def downstream_tls(message: SocketMessage, path: str, *, http: bool) -> DownstreamTls | None:
    """How to accept; None = plaintext. `http`: what follows is HTTP/1.1, so `h2` is not offered."""
    if _is_raw(message, path):
        return None
    own = within(path, "typed_config")
    context = unpacked(message.typed_config, DownstreamTlsContext, own)
    rules.check(context, own)
    only(context, own, _DOWNSTREAM, frozenset({"require_sni"}))
    common, where = context.common_tls_context, within(own, "common_tls_context")
    only(common, where, _COMMON | _SDS)
    low, high = _versions(common.tls_params, within(where, "tls_params"))
    secret = _secret(common, where)
    clients = _clients(common, where, required=value_or(context, "require_client_certificate", False))
    return DownstreamTls(
        identity="" if secret else _certificate(common, where, spiffe_id),
        secret=secret,
        trust=clients.trust,
        trust_secret=clients.secret,
        require_client_certificate=clients.required,
        ask_client_certificate=clients.asked,
        peer_ids=clients.ids,
        peer_dns=clients.dns,
        alpn=_offered(common, where, http=http),
        min_version=low,
        max_version=high,
        ciphers=tuple(common.tls_params.cipher_suites),
    )


def transport_socket_match(message: Cluster.TransportSocketMatch, path: str) -> TransportSocket:
    """The socket for endpoints whose metadata has all the pairs."""
    return TransportSocket(
        name=message.name,
        match=string_pairs(message.match, within(path, "match")),
        tls=upstream_tls(message.transport_socket, within(path, "transport_socket")),
    )


def spiffe_id(text: str, path: str) -> str:
    """`text`, when it is a SPIFFE id."""
    try:
        SpiffeId.parse(text)
    except ValueError as error:
        raise refuse(path, text, "a SPIFFE id") from error
    return text


def _is_raw(message: SocketMessage, path: str) -> bool:
    """Unset is plaintext."""
    kind = type_of(message.typed_config)
    if not kind and message.name in ("", _RAW_NAME):
        return True
    tls = (UpstreamTlsContext.DESCRIPTOR.full_name, DownstreamTlsContext.DESCRIPTOR.full_name)
    if kind not in (_RAW_TYPE, *tls):
        raise beyond(within(path, "typed_config"), kind or message.name, "RawBuffer, or TLS")
    return kind == _RAW_TYPE


# --- certificates


def _has_certificate(common: CommonTlsContext) -> bool:
    return common.HasField("tls_certificate_provider_instance")


def _certificate(common: CommonTlsContext, path: str, name_of: Callable[[str, str], str]) -> str:
    own = within(path, "tls_certificate_provider_instance")
    if not _has_certificate(common):
        raise Refused(own, f"found none, expected the instance {PROVIDER}")
    _check_provider(common.tls_certificate_provider_instance, own)
    return name_of(common.tls_certificate_provider_instance.certificate_name, within(own, "certificate_name"))


def _caller_or_id(name: str, path: str) -> str:
    return name if name == CALLER else spiffe_id(name, path)


def _check_provider(message: CertificateProviderPluginInstance, path: str) -> None:
    if message.instance_name != PROVIDER:
        raise refuse(within(path, "instance_name"), message.instance_name, PROVIDER)


def _check_common(message: CommonTlsContext, path: str) -> None:
    own, parameters = within(path, "tls_params"), message.tls_params
    only(parameters, own, _PARAMETERS)
    if parameters.tls_minimum_protocol_version == TlsParameters.TLSv1_3:
        raise beyond(within(own, "tls_minimum_protocol_version"), "TLSv1_3", "TLSv1_2 or less")
    if parameters.tls_maximum_protocol_version not in _NEWEST:
        name = enum_name(parameters, "tls_maximum_protocol_version", own)
        raise beyond(within(own, "tls_maximum_protocol_version"), name, "TLSv1_3")
    only(message, path, _COMMON)


def _versions(parameters: TlsParameters, path: str) -> tuple[str, str]:
    """The least and the newest version of a listener. What is below 1.2 is no version of the agent's."""
    only(parameters, path, _PARAMETERS | {"cipher_suites"})
    newest = parameters.tls_maximum_protocol_version
    if newest not in _NEWEST and newest != TlsParameters.TLSv1_2:
        name = enum_name(parameters, "tls_maximum_protocol_version", path)
        raise beyond(within(path, "tls_maximum_protocol_version"), name, "TLSv1_2 or TLSv1_3")
    low = "1.3" if parameters.tls_minimum_protocol_version == TlsParameters.TLSv1_3 else "1.2"
    high = "1.2" if newest == TlsParameters.TLSv1_2 else "1.3"
    if low > high:
        raise refuse(within(path, "tls_minimum_protocol_version"), low, f"at most the maximum, {high}")
    for index, name in enumerate(parameters.cipher_suites):
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise beyond(item(path, "cipher_suites", index), name, "one cipher's name each")
    return low, high


def _sni(name: str, path: str) -> str:
    """A name that can be asked for, or nothing."""
    try:
        name.encode("idna")
    except UnicodeError as error:
        raise refuse(path, name, "a host name") from error
    if not name.isprintable() or " " in name:
        raise refuse(path, name, "a host name")
    return name


def _protocols(common: CommonTlsContext, path: str) -> tuple[str, ...]:
    for index, name in enumerate(common.alpn_protocols):
        if not name.isascii() or not 0 < len(name) < 256:
            raise refuse(item(path, "alpn_protocols", index), name, "1 to 255 ASCII characters")
    return tuple(common.alpn_protocols)


def _offered(common: CommonTlsContext, path: str, *, http: bool) -> tuple[str, ...]:
    offered = tuple(name for name in _protocols(common, path) if not (http and name == _H2))
    if common.alpn_protocols and not offered:
        raise beyond(within(path, "alpn_protocols"), "h2 only", "http/1.1")
    return offered


# --- validation


class _Clients(NamedTuple):
    """Whom a listener takes."""

    trust: str = PROVIDER
    secret: str = ""
    required: bool = False
    asked: bool = False
    ids: frozenset[str] = frozenset()
    dns: frozenset[str] = frozenset()


def _clients(common: CommonTlsContext, path: str, *, required: bool) -> _Clients:
    """Without a validation context nobody is asked; without `required` whoever shows a certificate is checked."""
    which = common.WhichOneof("validation_context_type")
    if which is None and not required:
        return _Clients()
    if which == "combined_validation_context":
        return _by_secret(common, within(path, which), required=required)
    trust, ids, dns = _validation(common, path, needed="a client's certificate is verified")
    return _Clients(trust=trust, required=required, asked=not required, ids=ids, dns=dns)


def _by_secret(common: CommonTlsContext, path: str, *, required: bool) -> _Clients:
    message = common.combined_validation_context
    only(message, path, frozenset({"default_validation_context", "validation_context_sds_secret_config"}))
    checks, own = message.default_validation_context, within(path, "default_validation_context")
    only(checks, own, frozenset({"match_typed_subject_alt_names", "match_subject_alt_names"}))
    names = _names(checks, own)
    return _Clients(
        secret=_named(
            message.validation_context_sds_secret_config, within(path, "validation_context_sds_secret_config")
        ),
        required=required,
        asked=not required,
        ids=frozenset(name for is_uri, name in names if is_uri),
        dns=frozenset(name for is_uri, name in names if not is_uri),
    )


def _secret(common: CommonTlsContext, path: str) -> str:
    """The user's secret with the certificate that is shown; "" when none is named."""
    own = within(path, "tls_certificate_sds_secret_configs")
    named = common.tls_certificate_sds_secret_configs
    if not named:
        return ""
    if len(named) > 1 or _has_certificate(common):
        raise beyond(own, f"{len(named)} secrets, or a certificate beside them", "one certificate")
    return _named(named[0], item(path, "tls_certificate_sds_secret_configs", 0))


def _named(message: SdsSecretConfig, path: str) -> str:
    check_ads(message.sds_config, within(path, "sds_config"))
    return message.name


def _validation(common: CommonTlsContext, path: str, needed: str) -> tuple[str, frozenset[str], frozenset[str]]:
    """(trust, URI SANs, DNS SANs) of the validation context."""
    own = within(path, "validation_context")
    if not common.HasField("validation_context"):
        raise Refused(own, f"found none, expected one: {needed}")
    message = common.validation_context
    only(message, own, _VALIDATION, frozenset({"require_signed_certificate_timestamp"}))
    trust = _trust(message, own, needed)
    names = _names(message, own)
    ids = frozenset(name for is_uri, name in names if is_uri)
    return trust, ids, frozenset(name for is_uri, name in names if not is_uri)


def _trust(message: CertificateValidationContext, path: str, needed: str) -> str:
    sources = [
        name
        for name in ("ca_certificate_provider_instance", "trusted_ca", "system_root_certs")
        if message.HasField(name)
    ]
    match sources:
        case ["ca_certificate_provider_instance"]:
            instance, own = message.ca_certificate_provider_instance, within(path, sources[0])
            _check_provider(instance, own)
            if instance.certificate_name != ROOTS:
                raise refuse(within(own, "certificate_name"), instance.certificate_name, ROOTS)
            return PROVIDER
        case ["trusted_ca"]:
            return pem(message.trusted_ca, within(path, "trusted_ca"))
        case ["system_root_certs"]:
            return SYSTEM
        case []:
            raise Refused(path, f"found no roots, expected some: {needed}")
    raise refuse(path, " and ".join(sources), "one source of roots")


def pem(message: DataSource, path: str) -> str:
    """Certificates that the message itself holds."""
    which = message.WhichOneof("specifier")
    if which not in ("inline_string", "inline_bytes"):
        raise beyond(path, which or "nothing", "inline_string or inline_bytes")
    text = message.inline_string if which == "inline_string" else message.inline_bytes.decode("utf-8", "replace")
    if _PEM not in text:
        raise refuse(within(path, which), text, "certificates in PEM")
    return text


def _names(message: CertificateValidationContext, path: str) -> list[tuple[bool, str]]:
    """(is it a URI, the name) of all that are allowed."""
    found = []
    for index, one in enumerate(message.match_typed_subject_alt_names):
        own = item(path, "match_typed_subject_alt_names", index)
        if one.san_type not in (SubjectAltNameMatcher.URI, SubjectAltNameMatcher.DNS):
            raise beyond(within(own, "san_type"), enum_name(one, "san_type", own), "URI or DNS")
        found.append((one.san_type == SubjectAltNameMatcher.URI, _exact(one.matcher, within(own, "matcher"))))
    for index, matcher in enumerate(message.match_subject_alt_names):
        name = _exact(matcher, item(path, "match_subject_alt_names", index))
        found.append((_URI in name, name))
    return found


def _exact(message: StringMatcher, path: str) -> str:
    which = message.WhichOneof("match_pattern")
    if which != "exact":
        raise beyond(path, str(which), "exact")
    only(message, path, frozenset({"exact"}))
    if not message.exact:
        raise refuse(within(path, "exact"), "", "a name")
    return message.exact

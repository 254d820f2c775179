"""Rules of Gateway.

Source: Istio's gateway validation; Envoy's FilterChainMatch for what a server name may be; BoringSSL's cipher names.
"""

from controlplane.policy import syntax
from controlplane.policy.gateway import (
    EVERY_HOST,
    Gateway,
    Server,
    ServerTLSMode,
    ServerTLSSettings,
    TLSProtocol,
    host_parts,
)
from controlplane.policy.protocols import Protocol
from controlplane.policy.rules.fields import check_labels, check_port, check_unique
from controlplane.policy.violations import Found, Path, Report

CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
)
_PROTOCOLS = (Protocol.HTTP, Protocol.HTTPS, Protocol.GRPC, Protocol.GRPC_WEB, Protocol.HTTP2, Protocol.MONGO,
              Protocol.TCP, Protocol.TLS)  # fmt: skip
_FILES = {
    "server_certificate": "serverCertificate",
    "private_key": "privateKey",
    "ca_certificates": "caCertificates",
    "ca_crl": "caCrl",
    "tls_certificates": "tlsCertificates",
}
_NAMES = {
    "credential_name": "credentialName",
    "credential_names": "credentialNames",
    "ca_cert_credential_name": "caCertCredentialName",
}
_TWO = 2  # certificates of one server: one with an RSA and one with an ECDSA key
_VERSIONS = list(TLSProtocol)


def check_gateway(spec: Gateway, path: Path, report: Report) -> None:
    """Everything about one Gateway on its own."""
    check_labels(report, path / "selector", spec.selector, wildcard_hint=True)
    if not spec.selector:
        report.warn(path / "selector", "a selector without labels selects every gateway of the mesh")
    if not spec.servers:
        report.refuse(path / "servers", "at least one server")
    for index, server in enumerate(spec.servers):
        _check_server(report, (path / "servers").at(index), server)
    places = [(path / "servers").at(index) for index in range(len(spec.servers))]
    named = [(where / "port" / "name", item.port.name) for where, item in zip(places, spec.servers, strict=True)
             if item.port is not None and item.port.name]  # fmt: skip
    check_unique(report, [where for where, _ in named], [name for _, name in named], "a port name")
    own = [(where / "name", item.name) for where, item in zip(places, spec.servers, strict=True) if item.name]
    check_unique(report, [where for where, _ in own], [name for _, name in own], "a name")


def _check_server(report: Report, path: Path, server: Server) -> None:
    if server.port is None:
        report.refuse(path / "port", "a port with number, name and protocol")
        return
    check_port(report, path / "port" / "number", server.port.number)
    if not server.port.name:
        report.refuse(path / "port" / "name", "the port's name")
    elif not syntax.is_dns_label(server.port.name):
        report.refuse(path / "port" / "name", syntax.DNS_LABEL)
    if server.protocol not in _PROTOCOLS:
        report.refuse(path / "port" / "protocol", f"one of {', '.join(_PROTOCOLS)}")
    if server.port.target_port:
        report.warn(path / "port" / "targetPort", "is deprecated and means nothing: the gateway listens on number")
    if server.bind and not syntax.is_ip(server.bind):
        report.refuse(path / "bind", "an IP address")
    if server.default_endpoint:
        report.warn(path / "defaultEndpoint", "means nothing: a VirtualService says where requests go")
    _check_hosts(report, path / "hosts", server)
    _check_tls(report, path / "tls", server)


def _check_hosts(report: Report, path: Path, server: Server) -> None:
    if not server.hosts:
        report.refuse(path, "at least one host")
    for index, written in enumerate(server.hosts):
        where = path.at(index)
        namespace, host = host_parts(written, report.namespace)
        if written.count("/") > 1 or not (namespace == EVERY_HOST or syntax.is_dns_label(namespace)):
            report.refuse(where, "host or namespace/host, where the namespace may be '.' or '*'")
        elif not (host == EVERY_HOST or syntax.is_wildcard_domain(host)):
            report.refuse(where, "a domain name, '*', or a wildcard such as *.example.com")
        elif server.is_tls and host.startswith("*") and host != EVERY_HOST and not host.startswith("*."):
            report.refuse(where, "'*' or '*.' and a domain: TLS clients' names are matched by whole labels")


def _check_tls(report: Report, path: Path, server: Server) -> None:
    tls = server.tls
    if tls is None:
        if server.protocol.is_tls:
            report.refuse(path, f"the TLS settings of a server whose protocol is {server.protocol.value}")
        return
    if server.protocol.is_http:
        if not tls.https_redirect or tls.model_fields_set - {"https_redirect"}:
            report.refuse(
                path, "nothing but httpsRedirect beside a plain HTTP protocol; use HTTPS", found=Found("TLS settings")
            )  # fmt: skip
        return
    if tls.https_redirect:
        report.refuse(path / "httpsRedirect", "it on a server whose protocol is HTTP: this one takes TLS only")
    _check_certificates(report, path, tls)
    _check_versions(report, path, tls)


def _check_certificates(report: Report, path: Path, tls: ServerTLSSettings) -> None:
    written = {name: wire for name, wire in (_FILES | _NAMES).items() if getattr(tls, name)}
    if not tls.mode.shows_own_certificate:
        for wire in written.values():
            if tls.mode is ServerTLSMode.ISTIO_MUTUAL:
                report.refuse(path / wire, "none: ISTIO_MUTUAL uses the mesh's own certificates")
            else:
                report.warn(path / wire, f"does nothing with mode {tls.mode}")
        return
    if tls.credential_name and tls.credential_names:
        report.refuse(path / "credentialNames", "only one of credentialName and credentialNames", found=Found("both"))
    elif tls.credentials:
        _check_credentials(report, path, tls)
    elif tls.tls_certificates:
        _check_pairs(report, path / "tlsCertificates", tls)
    else:
        for name in ("server_certificate", "private_key"):
            if name not in written:
                report.refuse(path / _FILES[name], f"a file: {tls.mode} needs one, or credentialName")
    if not tls.credentials and tls.mode.verifies_clients and not (tls.ca_certificates or tls.ca_cert_credential_name):
        report.refuse(path / "caCertificates", f"roots: {tls.mode} verifies clients")


def _check_credentials(report: Report, path: Path, tls: ServerTLSSettings) -> None:
    for name in ("server_certificate", "private_key", "tls_certificates"):
        if getattr(tls, name):
            report.refuse(path / _FILES[name], "none beside credentialName")
    if len(tls.credential_names) > _TWO:
        report.refuse(path / "credentialNames", "at most two: one with an RSA and one with an ECDSA key",
                      found=Found(f"{len(tls.credential_names)} names"))  # fmt: skip
    places = [path / "credentialName"] if tls.credential_name else [
        (path / "credentialNames").at(index) for index in range(len(tls.credential_names))
    ]  # fmt: skip
    for where, name in zip(places, tls.credentials, strict=True):
        _check_secret_name(report, where, name)
    if tls.ca_cert_credential_name:
        _check_secret_name(report, path / "caCertCredentialName", tls.ca_cert_credential_name)


def _check_secret_name(report: Report, path: Path, name: str) -> None:
    if not syntax.is_lower_subdomain(name):
        report.refuse(path, f"the name of a Secret of the gateway's namespace ({syntax.LOWER_SUBDOMAIN})")


def _check_pairs(report: Report, path: Path, tls: ServerTLSSettings) -> None:
    if len(tls.tls_certificates) > _TWO:
        report.refuse(path, "at most two: one with an RSA and one with an ECDSA key",
                      found=Found(f"{len(tls.tls_certificates)} certificates"))  # fmt: skip
    for index, pair in enumerate(tls.tls_certificates):
        for name in ("server_certificate", "private_key"):
            if not getattr(pair, name):
                report.refuse(path.at(index) / _FILES[name], "a file")


def _check_versions(report: Report, path: Path, tls: ServerTLSSettings) -> None:
    low, high = tls.min_protocol_version, tls.max_protocol_version
    if high is not TLSProtocol.TLS_AUTO and _VERSIONS.index(low) > _VERSIONS.index(high):
        report.refuse(path / "minProtocolVersion", f"a version up to maxProtocolVersion ({high})")
    for index, name in enumerate(tls.cipher_suites):
        if name not in CIPHERS:
            report.warn((path / "cipherSuites").at(index), f"is left out: known are {', '.join(CIPHERS)}")
    check_unique(
        report,
        [(path / "cipherSuites").at(index) for index in range(len(tls.cipher_suites))],
        list(tls.cipher_suites),
        "a cipher",
    )

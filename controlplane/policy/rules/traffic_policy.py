"""Rules of TrafficPolicy and its blocks.

Source: Istio's destination rule validation and CRD constraints.
"""

from controlplane.policy import syntax
from controlplane.policy.rules.fields import (
    check_duration,
    check_not_negative,
    check_percent,
    check_port,
    check_unique,
)
from controlplane.policy.rules.load_balancer import check_load_balancer
from controlplane.policy.traffic_policy import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    H2UpgradePolicy,
    HTTPSettings,
    OutlierDetection,
    PortTrafficPolicy,
    TCPSettings,
    TLSMode,
    TrafficPolicy,
    TunnelSettings,
)
from controlplane.policy.violations import Found, Path, Report

_BLOCKS = ("load_balancer", "connection_pool", "outlier_detection", "tls")
_MORE = ("port_level_settings", "tunnel", "proxy_protocol", "retry_budget")
_CERTIFICATES = {
    "client_certificate": "clientCertificate",
    "private_key": "privateKey",
    "ca_certificates": "caCertificates",
    "credential_name": "credentialName",
    "ca_crl": "caCrl",
}


def check_traffic_policy(report: Report, path: Path, policy: TrafficPolicy | None) -> None:
    """The policy of a rule or of a subset."""
    if policy is None:
        return
    if not any(getattr(policy, name) for name in (*_BLOCKS, *_MORE)) and not policy.model_fields_set:
        report.refuse(path, "at least one setting", found=Found("an empty object"))
    _check_blocks(report, path, policy)
    ports = [(path / "portLevelSettings").at(index) for index in range(len(policy.port_level_settings))]
    for where, item in zip(ports, policy.port_level_settings, strict=True):
        _check_port_policy(report, where, item)
    check_unique(
        report,
        [where / "port" / "number" for where in ports],
        [item.port.number if item.port else -index for index, item in enumerate(policy.port_level_settings, 1)],
        "a port",
    )
    if policy.tunnel is not None and policy.proxy_protocol is not None:
        report.refuse(path / "proxyProtocol", "only one of tunnel and proxyProtocol", found=Found("both"))
    _check_tunnel(report, path / "tunnel", policy.tunnel)
    if policy.retry_budget is not None:
        check_percent(report, path / "retryBudget" / "percent", policy.retry_budget.percent)
        check_duration(report, path / "retryBudget" / "budgetInterval", policy.retry_budget.budget_interval, zero=True)


def _check_blocks(report: Report, path: Path, policy: TrafficPolicy | PortTrafficPolicy) -> None:
    outlier = policy.outlier_detection is not None
    check_load_balancer(report, path / "loadBalancer", policy.load_balancer, outlier=outlier)
    _check_connection_pool(report, path / "connectionPool", policy.connection_pool)
    _check_outlier_detection(report, path / "outlierDetection", policy.outlier_detection)
    _check_tls(report, path / "tls", policy.tls)


def _check_port_policy(report: Report, path: Path, policy: PortTrafficPolicy) -> None:
    if policy.port is None:
        report.refuse(path / "port", "the port that the settings are for")
    else:
        check_port(report, path / "port" / "number", policy.port.number)
    if not any(getattr(policy, name) is not None for name in _BLOCKS):
        report.refuse(path, "at least one of loadBalancer, connectionPool, outlierDetection and tls")
    _check_blocks(report, path, policy)


def _check_connection_pool(report: Report, path: Path, pool: ConnectionPoolSettings | None) -> None:
    if pool is None:
        return
    if pool.tcp is None and pool.http is None:
        report.refuse(path, "at least one of tcp and http")
    _check_tcp(report, path / "tcp", pool.tcp)
    _check_http(report, path / "http", pool.http)


def _check_tcp(report: Report, path: Path, tcp: TCPSettings | None) -> None:
    if tcp is None:
        return
    check_not_negative(report, path / "maxConnections", tcp.max_connections)
    check_duration(report, path / "connectTimeout", tcp.connect_timeout)
    check_duration(report, path / "maxConnectionDuration", tcp.max_connection_duration)
    check_duration(report, path / "idleTimeout", tcp.idle_timeout, zero=True)
    if tcp.tcp_keepalive is not None:
        check_duration(report, path / "tcpKeepalive" / "time", tcp.tcp_keepalive.time)
        check_duration(report, path / "tcpKeepalive" / "interval", tcp.tcp_keepalive.interval)


def _check_http(report: Report, path: Path, http: HTTPSettings | None) -> None:
    if http is None:
        return
    for wire, value in (
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ):
        check_not_negative(report, path / wire, value)
    check_duration(report, path / "idleTimeout", http.idle_timeout)
    if http.use_client_protocol and http.h2_upgrade_policy is H2UpgradePolicy.UPGRADE:
        report.refuse(path / "useClientProtocol", "false beside h2UpgradePolicy UPGRADE")
    if http.http2_keep_alive is not None:
        for name in ("interval", "timeout"):
            value = getattr(http.http2_keep_alive, name)
            if value is None:
                report.refuse(path / "http2KeepAlive" / name, "a duration")
            check_duration(report, path / "http2KeepAlive" / name, value)


def _check_outlier_detection(report: Report, path: Path, outlier: OutlierDetection | None) -> None:
    if outlier is None:
        return
    check_duration(report, path / "interval", outlier.interval)
    check_duration(report, path / "baseEjectionTime", outlier.base_ejection_time)
    check_percent(report, path / "maxEjectionPercent", outlier.max_ejection_percent)
    check_percent(report, path / "minHealthPercent", outlier.min_health_percent)
    if outlier.consecutive_local_origin_failures and not outlier.split_external_local_origin_errors:
        report.refuse(
            path / "consecutiveLocalOriginFailures",
            "splitExternalLocalOriginErrors: true beside it, without which it does nothing",
        )
    if outlier.consecutive_errors:
        report.warn(path / "consecutiveErrors", "is deprecated and does nothing: use consecutive5xxErrors")
    for index, code in enumerate(outlier.outlier_detection_http_error_codes):
        if not 100 <= code <= 599:
            report.refuse((path / "outlierDetectionHttpErrorCodes").at(index), "a status from 100 to 599")


def _check_tls(report: Report, path: Path, tls: ClientTLSSettings | None) -> None:
    if tls is None:
        return
    written = [name for name in _CERTIFICATES if getattr(tls, name)]
    match tls.mode:
        case TLSMode.ISTIO_MUTUAL:
            for name in written:
                report.refuse(path / _CERTIFICATES[name], "none: ISTIO_MUTUAL uses the mesh's own certificates")
        case TLSMode.SIMPLE | TLSMode.MUTUAL:
            _check_own_certificates(report, path, tls)
            if tls.insecure_skip_verify:
                _check_unverified(report, path, tls)
        case TLSMode.DISABLE:
            for name in written:
                report.warn(path / _CERTIFICATES[name], "does nothing with mode DISABLE")


def _check_own_certificates(report: Report, path: Path, tls: ClientTLSSettings) -> None:
    if tls.credential_name:
        for name in ("client_certificate", "private_key", "ca_certificates", "ca_crl"):
            if getattr(tls, name):
                report.refuse(path / _CERTIFICATES[name], "none beside credentialName")
        return
    if tls.mode is TLSMode.MUTUAL:
        for name in ("client_certificate", "private_key"):
            if not getattr(tls, name):
                report.refuse(path / _CERTIFICATES[name], "a file: MUTUAL needs one, or credentialName")


def _check_unverified(report: Report, path: Path, tls: ClientTLSSettings) -> None:
    """Nothing that says how to verify may stand beside insecureSkipVerify."""
    contradicted = {"ca_certificates": "caCertificates", "subject_alt_names": "subjectAltNames"}
    if tls.mode is TLSMode.SIMPLE:
        contradicted["credential_name"] = "credentialName"
    for name, wire in contradicted.items():
        if getattr(tls, name):
            report.refuse(path / wire, "none beside insecureSkipVerify")


def _check_tunnel(report: Report, path: Path, tunnel: TunnelSettings | None) -> None:
    if tunnel is None:
        return
    if tunnel.protocol not in ("", "CONNECT", "POST"):
        report.refuse(path / "protocol", "CONNECT or POST")
    if not (syntax.is_domain(tunnel.target_host) or syntax.is_ip(tunnel.target_host)):
        report.refuse(path / "targetHost", "a domain name or an IP address")
    check_port(report, path / "targetPort", tunnel.target_port)

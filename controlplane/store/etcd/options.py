"""How to reach an etcd cluster: endpoints, TLS files, user; and the gRPC targets that follow.

Source: etcd's client flags (--endpoints, --cacert, --cert, --key, --user).
"""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.store.limits import TxnLimits
from mesh.errors import ErrorCode, MeshError
from mesh.secret import Secret

_DEFAULT_PORT = 2379


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdOptions:
    """`endpoints`: `host:port`, `[v6]:port` or with http:// or https:// before it. TLS is used with any TLS file or
    https:// endpoint. `timeout_s`: of each call."""

    endpoints: tuple[str, ...]
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    user: str = ""
    password: Secret = field(default_factory=lambda: Secret(""))
    timeout_s: float = 5.0
    limits: TxnLimits = TxnLimits()
    embedded: bool = False  # changes only the remedy in the error when it cannot be reached

    @property
    def uses_tls(self) -> bool:
        files = (self.ca_file, self.cert_file, self.key_file)
        return any(files) or any(endpoint.startswith("https://") for endpoint in self.endpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsMaterial:
    """PEM bytes for grpc.ssl_channel_credentials; None = the system's roots, no client certificate."""

    roots: bytes | None
    key: bytes | None
    chain: bytes | None


def target(endpoint: str) -> str:
    """The gRPC target of an endpoint. Raises SETTINGS for what is not host:port."""
    rest = endpoint.removeprefix("http://").removeprefix("https://").rstrip("/")
    host, port = _split(rest)
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise MeshError(ErrorCode.SETTINGS, f"found {endpoint!r}, expected host:port", subject="--etcd")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"dns:///{host}:{port}"
    return f"ipv6:[{host}]:{port}" if address.version == 6 else f"ipv4:{host}:{port}"


def _split(rest: str) -> tuple[str, str]:
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        return host, port.removeprefix(":") or str(_DEFAULT_PORT)
    host, colon, port = rest.rpartition(":")
    return (host, port) if colon else (rest, str(_DEFAULT_PORT))


def targets(options: EtcdOptions) -> tuple[str, ...]:
    """All targets, in the order given. Raises SETTINGS when there is none."""
    if not options.endpoints:
        raise MeshError(
            ErrorCode.SETTINGS, "found no etcd endpoint", subject="--etcd", hint="give host:port or --embedded-etcd DIR"
        )
    return tuple(target(endpoint) for endpoint in options.endpoints)


def tls_material(options: EtcdOptions) -> TlsMaterial | None:
    """Read the TLS files; None when TLS is not used. Raises SETTINGS naming the file that cannot be read."""
    if not options.uses_tls:
        return None
    if (options.cert_file is None) != (options.key_file is None):
        raise MeshError(
            ErrorCode.SETTINGS, "found one of --etcd-cert and --etcd-key, expected both or none", subject="--etcd-cert"
        )
    return TlsMaterial(
        roots=_read("--etcd-ca", options.ca_file),
        key=_read("--etcd-key", options.key_file),
        chain=_read("--etcd-cert", options.cert_file),
    )


def _read(flag: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise MeshError(ErrorCode.SETTINGS, f"cannot read {path}: {error.strerror}", subject=flag) from error

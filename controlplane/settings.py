"""The control plane's settings: defaults < YAML file < environment (GOSSAMER_...) < flags. Pure.

Owns:   the fields, their defaults and checks; merging the layers; the nearest match for an unknown key.
Not:    reading files, the environment and argv (`__main__`), the objects that users post.
Source: decisions 1, 2, 12, 16, 19; design section 8.
Invariants: settings that are not valid raise MeshError(SETTINGS); the process then exits 64 before any bind.
"""

import ipaddress
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from controlplane.extension_providers import ExtensionProvider, ExtensionProviders, each_once
from mesh.errors import ErrorCode, MeshError
from mesh.identity.spiffe import node_id
from mesh.vocabulary import DEFAULT_DOMAIN_SUFFIX, DEFAULT_ROOT_NAMESPACE, DEFAULT_TRUST_DOMAIN

ENVIRONMENT_PREFIX = "GOSSAMER_"
EXIT_SETTINGS = 64  # EX_USAGE of sysexits.h
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class MeshSettings(BaseModel):
    """Mesh-wide facts that the compiler uses (decisions 1 and 2). Immutable and hashable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trust_domain: str = Field(DEFAULT_TRUST_DOMAIN, description="trust domain of every identity")
    root_namespace: str = Field(DEFAULT_ROOT_NAMESPACE, description="namespace whose policies hold for the whole mesh")
    domain_suffix: str = Field(DEFAULT_DOMAIN_SUFFIX, description="what follows <name>.<namespace>. in a full name")
    compat_istio: bool = Field(False, description="mesh-wide default of the annotation gossamer.mesh/compat: istio")
    extension_providers: ExtensionProviders = Field(
        (), description="services that AuthorizationPolicies with action CUSTOM may ask, as in Istio's MeshConfig"
    )

    def extension_provider(self, name: str) -> ExtensionProvider | None:
        """By its name."""
        return next((item for item in self.extension_providers if item.name == name), None)

    @field_validator("extension_providers")
    @classmethod
    def _providers(cls, value: tuple[ExtensionProvider, ...]) -> tuple[ExtensionProvider, ...]:
        return each_once(value)

    @field_validator("trust_domain")
    @classmethod
    def _trust_domain(cls, value: str) -> str:
        node_id(value, "name")
        return value

    @field_validator("root_namespace", "domain_suffix")
    @classmethod
    def _dns_name(cls, value: str) -> str:
        if not _DNS_NAME.fullmatch(value):
            raise ValueError("expected lower-case letters, digits, '-' and '.', with a letter or digit at both ends")
        return value


class Settings(BaseModel):
    """Everything that the process is told at start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state_dir: str = Field(
        "gossamer-state", min_length=1, description="folder (0700) of the replica id, the CA key file, ready.json"
    )
    embedded_etcd: str = Field("", description="start an etcd with its data in this folder")
    etcd: str = Field("", description="client addresses of an existing etcd, host:port[,host:port...]")
    etcd_ca: str = Field("", description="PEM file with the roots that etcd's certificate chains to")
    etcd_cert: str = Field("", description="PEM file with our client certificate for etcd")
    etcd_key: str = Field("", description="PEM file with the key of etcd_cert")
    etcd_user: str = Field("", description="user for etcd's own authentication")
    etcd_password_file: str = Field("", description="file with that user's password")
    etcd_max_txn_ops: int = Field(
        0, ge=0, description="etcd's --max-txn-ops; 0 = 128 for an existing etcd, 4096 for the embedded one"
    )
    etcd_max_request_bytes: int = Field(
        0, ge=0, description="etcd's --max-request-bytes; 0 = 1.5 MiB for an existing etcd, 8 MiB for the embedded one"
    )
    rest: str = Field("127.0.0.1:8080", description="address of REST and /metrics; port 0 = any free one")
    grpc_mtls: str = Field("127.0.0.1:18000", description="gRPC that demands a client certificate: ADS, LRS, reports")
    grpc_tls: str = Field("127.0.0.1:18001", description="gRPC with server TLS: join, control API, health, reflection")
    xds_plaintext: str = Field("", description="plaintext ADS for development; loopback only, off when empty")
    api_token_file: str = Field("", description="API tokens, lines `name:sha256 of the token in hex`")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_json: bool = Field(False, description="log JSON lines")
    admission_per_s: float = Field(200.0, gt=0, description="new xDS streams admitted per second")
    send_timeout_s: float = Field(30.0, gt=0, description="a proxy that does not read for so long is cut off")
    max_stream_age_s: float = Field(
        1800.0, ge=0, description="about so old an xDS stream is ended, so that replicas rebalance; 0 = never"
    )
    registration_wait_s: float = Field(
        5.0, ge=0, le=60, description="after a start, how long to wait until known nodes have registered again"
    )
    certificate_ttl_s: int = Field(
        86400, ge=10, le=31_536_000, description="how long certificates are valid; agents renew at about half of it"
    )
    history_records: int = Field(1000, ge=1, description="how many changes the history keeps at most")
    history_days: float = Field(30.0, gt=0, le=36500, description="after how many days a change leaves the history")
    history_mib: float = Field(
        64.0, gt=0, le=1024, description="MiB that the history takes in the store at most, beside its records"
    )
    jwks_refresh_s: float = Field(
        1200.0, ge=1, le=86400, description="about so often the keys of token issuers are fetched again"
    )
    drain_s: float = Field(5.0, ge=0, le=9, description="at the end, how long open calls may take to finish")
    mesh: MeshSettings = Field(default_factory=lambda: MeshSettings.model_validate({}))

    @field_validator("rest", "grpc_mtls", "grpc_tls", "xds_plaintext")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value


def split_address(text: str) -> tuple[str, int]:
    """`(host, port)` of `host:port` or `[v6]:port`. Raises ValueError that says what was found and expected."""
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"found {text!r}, expected host:port")
    return bare, int(port)


def is_loopback(address: str) -> bool:
    """Does `host:port` bind only this machine? A host name other than localhost does not count."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load(
    *,
    file: Mapping[str, Any] | None = None,
    file_name: str = "",
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Merge the layers and check the whole. Raises MeshError(SETTINGS) that names the first wrong key and its layer."""
    merged: dict[str, Any] = {}
    for source, layer in (
        (file_name or "the settings file", dict(file or {})),
        ("the environment", _from_environment(environ or {})),
        ("the flags", dict(flags or {})),
    ):
        _refuse_unknown(layer, source)
        merged = _merge(merged, layer)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise _invalid(error) from error
    _check_whole(settings)
    return settings


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """GOSSAMER_REST -> rest; GOSSAMER_MESH_TRUST_DOMAIN -> mesh.trust_domain."""
    layer: dict[str, Any] = {}
    for name, value in sorted(environ.items()):
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if not name.startswith(ENVIRONMENT_PREFIX) or key in _FOREIGN or key.startswith("agent_"):
            continue
        if key.startswith("mesh_"):
            layer.setdefault("mesh", {})[key.removeprefix("mesh_")] = value
        else:
            layer[key] = value
    return layer


# Names with our prefix that other parts read: the build and meshctl (and GOSSAMER_AGENT_... the agent).
_FOREIGN = frozenset({"compile", "server", "token", "config"})


def _refuse_unknown(layer: Mapping[str, Any], source: str) -> None:
    for path, value, model in (("", layer, Settings), ("mesh.", layer.get("mesh", {}), MeshSettings)):
        if not isinstance(value, Mapping):
            raise _settings_error(path.rstrip("."), f"found {value!r} in {source}, expected a mapping")
        for key in value:
            if key not in model.model_fields:
                near = get_close_matches(str(key), model.model_fields, n=1)
                hint = f"did you mean {path}{near[0]}?" if near else f"known: {', '.join(model.model_fields)}"
                raise _settings_error(f"{path}{key}", f"unknown setting in {source}", hint)


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**lower, **upper}
    if "mesh" in lower and "mesh" in upper:
        merged["mesh"] = {**lower["mesh"], **upper["mesh"]}
    return merged


def _check_whole(settings: Settings) -> None:
    if bool(settings.embedded_etcd) == bool(settings.etcd):
        raise _settings_error(
            "etcd",
            "found both --etcd and --embedded-etcd" if settings.etcd else "found neither --etcd nor --embedded-etcd",
            "give --embedded-etcd DIR for one machine, or --etcd host:2379 for an existing etcd",
        )
    if bool(settings.etcd_cert) != bool(settings.etcd_key):
        raise _settings_error("etcd_cert", "found one of etcd_cert and etcd_key", "give both or none")
    if settings.xds_plaintext and not is_loopback(settings.xds_plaintext):
        raise _settings_error(
            "xds_plaintext",
            f"found {settings.xds_plaintext}, expected a loopback address: plaintext xDS has no authentication",
            "use the mTLS port",
        )
    for name in ("rest", "grpc_mtls", "grpc_tls"):
        address = getattr(settings, name)
        if not address:
            raise _settings_error(name, "found nothing, expected host:port")
        if not is_loopback(address) and not settings.api_token_file:
            raise _settings_error(
                name,
                f"found {address}, which other machines can reach, and no api_token_file",
                "give --api-token-file FILE, or bind 127.0.0.1",
            )


def _invalid(error: ValidationError) -> MeshError:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return _settings_error(path, message if message.startswith("found ") else f"found {first['input']!r}: {message}")


def _settings_error(key: str, message: str, hint: str = "") -> MeshError:
    return MeshError(ErrorCode.SETTINGS, message, subject=key, hint=hint)

"""What an agent is told at its start: defaults < TOML file < environment < flags.

Owns:   the package's public names: its keys (keys) and `load` (reading), over the forms of values (values) and tables.
Not:    what is done with them.
Source: deploy/README.md.
Invariants: an unknown key, variable or value raises SETTINGS naming it and the nearest known one; nothing has been
        bound or written by then.
"""

from agent.settings.keys import (
    PROTOCOLS,
    SECTIONS,
    SERVER_NAME,
    SYSTEM_ROOTS,
    ControlPlaneSettings,
    GatewaySettings,
    LogSettings,
    NodeSettings,
    ProxySettings,
    Service,
    ServiceCheck,
    ServicePort,
    Settings,
    service,
)
from agent.settings.reading import ENV_PREFIX, MAX_SERVICES, load, read_environment, read_file
from agent.settings.tables import build, error, key_of
from agent.settings.values import (
    MAX_LABEL_CHARS,
    MAX_LABELS,
    MAX_WORKERS,
    address,
    boolean,
    duration_s,
    host_port,
    http_url,
    integer,
    labels,
    matching,
    one_of,
    port_range,
    tcp_target,
    text,
    workers,
)

__all__ = [
    "ENV_PREFIX", "MAX_LABELS", "MAX_LABEL_CHARS", "MAX_SERVICES", "MAX_WORKERS", "PROTOCOLS", "SECTIONS",
    "SERVER_NAME", "SYSTEM_ROOTS", "ControlPlaneSettings", "GatewaySettings", "LogSettings", "NodeSettings",
    "ProxySettings", "Service", "ServiceCheck", "ServicePort", "Settings", "address", "boolean", "build", "duration_s",
    "error", "host_port", "http_url", "integer", "key_of", "labels", "load", "matching", "one_of", "port_range",
    "read_environment", "read_file", "service", "tcp_target", "text", "workers",
]  # fmt: skip

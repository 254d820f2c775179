"""Where more resources come from: the stream that this one came on, and nothing else.

`ads` and `self` (the server that sent this resource) both say so.
"""

from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource

from agent.config.fields import beyond, only, within

# Our own limit on warming is what Envoy's default is.
_KNOWN = frozenset({"ads", "self", "initial_fetch_timeout", "resource_api_version"})
_VERSIONS = frozenset({ApiVersion.AUTO, ApiVersion.V3})


def check_ads(message: ConfigSource, path: str) -> None:
    """Refuse every source but ADS."""
    specifier = message.WhichOneof("config_source_specifier")
    if specifier not in ("ads", "self"):
        raise beyond(path, specifier or "no source", "ads")
    only(message, path, _KNOWN)
    if message.resource_api_version not in _VERSIONS:
        raise beyond(within(path, "resource_api_version"), "V2", "V3")

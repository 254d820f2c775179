"""The services that AuthorizationPolicies with action CUSTOM ask, as the mesh's settings name them. Pure.

Source: istio.io/api mesh/v1alpha1 MeshConfig.extensionProviders: envoyExtAuthzHttp and envoyExtAuthzGrpc, with the same
        names and defaults; the time-out is Istio's, which is meant to be shortened.
"""

import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0}
_SERVICE = re.compile(r"(?:[a-z0-9-]{1,63}/)?[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_DEFAULT_TIMEOUT_S = 600.0


def _seconds(value: Any) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or not float(match[1]):
        raise ValueError(f'found {value!r}, expected a duration such as "5s" or "200ms"')
    return float(match[1]) * _UNIT_S[match[2]]


def _names(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _HEADER.fullmatch(value.removesuffix("*")):
            raise ValueError(f"found {value!r}, expected a header's name, perhaps with * at its end")
    return values


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True)


class IncludedBody(_Part):
    """How much of a request's body the service is shown."""

    max_request_bytes: int = Field(ge=1, le=1024 * 1024)
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class _Authorizer(_Part):
    """`service`: `[namespace/]host` of a service of the mesh; `status_on_error`: 0 = 403."""

    service: str
    port: int = Field(ge=1, le=65535)
    timeout: Annotated[float, BeforeValidator(_seconds)] = _DEFAULT_TIMEOUT_S
    fail_open: bool = False
    status_on_error: int = 0
    include_request_body_in_check: IncludedBody | None = None

    @field_validator("service")
    @classmethod
    def _service(cls, value: str) -> str:
        if not _SERVICE.fullmatch(value):
            raise ValueError(f"found {value!r}, expected [namespace/]host")
        return value

    @field_validator("status_on_error", mode="before")
    @classmethod
    def _status(cls, value: Any) -> int:
        text = str(value)
        if not (text.isascii() and text.isdigit() and 200 <= int(text) <= 599):
            raise ValueError(f"found {value!r}, expected a status from 200 to 599")
        return int(text)

    @property
    def host(self) -> str:
        """The service's host, or its short name."""
        return self.service.rpartition("/")[2]

    @property
    def namespace(self) -> str:
        """Of a short name; empty when the service says none."""
        return self.service.rpartition("/")[0]


class HttpAuthorizer(_Authorizer):
    """Asked over HTTP, at `path_prefix` + the request's path."""

    path_prefix: str = ""
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: tuple[tuple[str, str], ...] = ()
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()

    @field_validator(
        "include_request_headers_in_check",
        "headers_to_upstream_on_allow",
        "headers_to_downstream_on_deny",
        "headers_to_downstream_on_allow",
    )
    @classmethod
    def _header_names(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return _names(values)

    @field_validator("include_additional_headers_in_check", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return tuple(sorted(value.items())) if isinstance(value, dict) else value

    @field_validator("path_prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if value and (not value.startswith("/") or not value.isascii() or not value.isprintable() or " " in value):
            raise ValueError(f"found {value!r}, expected a path that begins with /")
        return value


class GrpcAuthorizer(_Authorizer):
    """Asked by Envoy's authorization service over gRPC."""


class ExtensionProvider(_Part):
    """One provider, of exactly one sort."""

    name: str = Field(min_length=1, max_length=253)
    envoy_ext_authz_http: HttpAuthorizer | None = None
    envoy_ext_authz_grpc: GrpcAuthorizer | None = None

    @model_validator(mode="after")
    def _one_sort(self) -> "ExtensionProvider":
        if (self.envoy_ext_authz_http is None) == (self.envoy_ext_authz_grpc is None):
            raise ValueError("found both or none, expected one of envoyExtAuthzHttp and envoyExtAuthzGrpc")
        return self


def _parsed(value: Any) -> Any:
    """A flag or a variable of the environment holds JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"found {value!r}, expected a list as JSON") from error


def each_once(value: tuple[ExtensionProvider, ...]) -> tuple[ExtensionProvider, ...]:
    names = [item.name for item in value]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"found {name!r} twice, expected each name once")
    return value


ExtensionProviders = Annotated[tuple[ExtensionProvider, ...], BeforeValidator(_parsed)]

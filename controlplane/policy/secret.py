"""Kubernetes' Secret, as far as TLS needs it: a certificate with its key, or roots.

Owns:   the shape of core v1 Secret, the names of the keys that the mesh reads, folding `stringData` into `data`, and
        hiding the content from whoever is shown a Secret without having asked for its content.
Not:    which proxies get it (controlplane.compiler.secrets).
Source: Kubernetes API reference, core v1 Secret; Istio's `credentialName` for the keys: those of kubernetes.io/tls, and
        `cert`, `key`, `cacert` of a generic one.
Invariant: no value of a Secret stands in a message, a repr or a difference.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from controlplane.policy.frozen import EMPTY
from controlplane.policy.scalars import FREEZE, Boolean, Text
from controlplane.policy.spec import Spec

OPAQUE = "Opaque"
TLS = "kubernetes.io/tls"
# Of each pair the first that is there counts.
CERTIFICATE_KEYS = (("tls.crt", "tls.key"), ("cert", "key"))
ROOT_KEYS = ("ca.crt", "cacert")

HIDDEN = "[redacted]"
_CHANGED = "[redacted], changed"
_MAPS = ("data", "stringData")
# `kubectl apply` keeps the whole manifest here.
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def _refused(expected: str) -> PydanticCustomError:
    return PydanticCustomError("policy", "{text}", {"text": f"found something else (not shown), expected {expected}"})


def _object(value: object) -> object:
    if not isinstance(value, Mapping):
        raise _refused("an object")
    return value


def _hidden_text(value: object) -> str:
    if not isinstance(value, str):
        raise _refused("a string (write it in quotes)")
    return value


def _hidden_bytes(value: object) -> str:
    text = _hidden_text(value)
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _refused("base64; stringData takes plain text") from None
    return text


_Map = Mapping[str, Annotated[str, BeforeValidator(_hidden_bytes)]]
_TextMap = Mapping[str, Annotated[str, BeforeValidator(_hidden_text)]]


class Secret(Spec):
    """Keys and certificates of the user's. `data` is base64, `stringData` plain text that is kept in `data`."""

    type: Text = OPAQUE
    data: Annotated[_Map, BeforeValidator(_object), FREEZE] = Field(default=EMPTY, repr=False)
    string_data: Annotated[_TextMap, BeforeValidator(_object), FREEZE] = Field(default=EMPTY, repr=False)
    immutable: Boolean = False

    def pem(self, key: str) -> str:
        """The text under `key`; empty when there is none."""
        if key in self.string_data:
            return self.string_data[key]
        return base64.b64decode(self.data.get(key, "")).decode(errors="replace")

    @property
    def certificate(self) -> tuple[str, str] | None:
        """(certificate chain, private key) in PEM, if it holds both."""
        found = ((self.pem(chain), self.pem(key)) for chain, key in CERTIFICATE_KEYS)
        return next((pair for pair in found if all(pair)), None)

    @property
    def roots(self) -> str:
        """Certificates in PEM that others are verified with; empty when it holds none."""
        return next(filter(None, map(self.pem, ROOT_KEYS)), "")


def folded(written: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they are stored: `stringData` in `data`, over what stands there."""
    texts = written.get("stringData") or {}
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    data = {**(written.get("data") or {}), **encoded}
    kept = {key: value for key, value in written.items() if key not in _MAPS}
    return {**kept, "data": data} if data else kept


def redacted(manifest: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The manifest, of a Secret without its content. `before`: an earlier one, so that a changed value says so."""
    if (manifest.get("apiVersion"), manifest.get("kind")) != ("v1", "Secret"):
        return dict(manifest)
    shown = dict(manifest)
    for name in _MAPS:
        if name in shown:
            shown[name] = _hidden(shown[name], (before or {}).get(name))
    metadata = shown.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(annotations := metadata.get("annotations"), Mapping):
        hidden = {key: HIDDEN if key == _APPLIED else value for key, value in annotations.items()}
        shown["metadata"] = {**metadata, "annotations": hidden}
    return shown


def _hidden(values: object, before: object) -> object:
    if not isinstance(values, Mapping):
        return HIDDEN
    old = before if isinstance(before, Mapping) else {}
    return {key: _CHANGED if key in old and old[key] != value else HIDDEN for key, value in values.items()}

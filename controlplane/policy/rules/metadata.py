"""Rules of an object's metadata, and its typed form.

Source: Kubernetes API conventions: names, namespaces, labels, annotations (256 KiB in all).
"""

from collections.abc import Callable, Mapping
from typing import Any

from controlplane.policy import shape, syntax
from controlplane.policy.frozen import FrozenMap
from controlplane.policy.kinds import KindInfo
from controlplane.policy.objects import COMPAT_ANNOTATION, MERGE_ANNOTATION, TTL_ANNOTATION, Metadata
from controlplane.policy.rules.fields import check_labels
from controlplane.policy.scalars import parse_duration
from controlplane.policy.violations import METADATA, Report

MAX_ANNOTATIONS_BYTES = 256 * 1024
_SERVER_OWNED = (
    "uid",
    "creationTimestamp",
    "generation",
    "resourceVersion",
    "managedFields",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_WITHOUT_EFFECT = ("finalizers", "ownerReferences")
_KNOWN = ("name", "generateName", "namespace", "labels", "annotations", *_SERVER_OWNED, *_WITHOUT_EFFECT)
# The annotations that we read, and the values that mean something.
_OURS = {COMPAT_ANNOTATION: ("istio",), MERGE_ANNOTATION: ("true", "false")}
_ALL_OURS = (*_OURS, TTL_ANNOTATION)
# Shorter ones would expire while a control plane restarts.
MIN_TTL_S, MAX_TTL_S = 3.0, 86400.0


def check_metadata(report: Report, info: KindInfo | None, *, default_namespace: str, strict: bool) -> Metadata:
    """Check `metadata` and return it without the server's part. Its values are only good when nothing was reported."""
    raw = report.manifest.get("metadata")
    if not isinstance(raw, dict):
        report.refuse(METADATA, "an object with the object's name")
        raw = {}
        report.spoil([METADATA])
    _check_known(report, raw, strict=strict)
    name = _name(report, raw, info)
    namespace = _namespace(report, raw, info, default_namespace)
    labels = _text_map(report, raw, "labels")
    annotations = _text_map(report, raw, "annotations")
    check_labels(report, METADATA / "labels", labels)
    _check_annotations(report, annotations)
    return Metadata(name=name, namespace=namespace, labels=FrozenMap(labels), annotations=FrozenMap(annotations))


def _check_known(report: Report, raw: Mapping[str, Any], *, strict: bool) -> None:
    for name, value in raw.items():
        if name not in _KNOWN:
            message, nearest = shape.unknown_field(name, _KNOWN, "metadata")
            (report.add if strict else report.warn)(METADATA / name, message)
            if nearest is not None and strict:
                report.spoil([METADATA / nearest])
        elif name in _WITHOUT_EFFECT and value:
            report.warn(METADATA / name, "has no effect here and is not kept")


def _name(report: Report, raw: Mapping[str, Any], info: KindInfo | None) -> str:
    name = raw.get("name")
    if raw.get("generateName") and not name:
        report.refuse(METADATA / "generateName", "metadata.name: names are not generated")
        return ""
    label = info is not None and info.dns_label_name
    fits: Callable[[str], bool] = syntax.is_lower_dns_label if label else syntax.is_lower_subdomain
    if isinstance(name, str) and fits(name):
        return name
    report.refuse(METADATA / "name", syntax.LOWER_DNS_LABEL if label else syntax.LOWER_SUBDOMAIN)
    return ""


def _namespace(report: Report, raw: Mapping[str, Any], info: KindInfo | None, default: str) -> str:
    namespace = raw.get("namespace")
    if info is not None and not info.namespaced:
        if namespace:
            report.refuse(METADATA / "namespace", f"none: a {info.kind} stands in no namespace")
        return ""
    if namespace in (None, ""):
        return default
    if isinstance(namespace, str) and syntax.is_lower_dns_label(namespace):
        return namespace
    report.refuse(METADATA / "namespace", syntax.LOWER_DNS_LABEL)
    return ""


def _text_map(report: Report, raw: Mapping[str, Any], name: str) -> dict[str, str]:
    """A map of strings; what is none is reported and left out."""
    value = raw.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        report.refuse(METADATA / name, "an object")
        return {}
    for key, text in value.items():
        if not isinstance(text, str):
            report.refuse((METADATA / name).key(key), "a string (write it in quotes)")
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _check_annotations(report: Report, annotations: Mapping[str, str]) -> None:
    path = METADATA / "annotations"
    for key, value in annotations.items():
        if not syntax.is_label_key(key):
            report.refuse(path.key(key), syntax.LABEL_KEY.replace("label's", "annotation's"), found=key)
        elif key in _OURS and value not in _OURS[key]:
            report.refuse(path.key(key), f"one of {', '.join(_OURS[key])}")
        elif key == TTL_ANNOTATION and not MIN_TTL_S <= (parse_duration(value) or 0.0) <= MAX_TTL_S:
            report.refuse(path.key(key), 'a duration from "3s" to "24h"')
        elif key.startswith("gossamer.mesh/") and key not in _ALL_OURS:
            report.warn(path.key(key), f"is not known; known are {', '.join(_ALL_OURS)}")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > MAX_ANNOTATIONS_BYTES:
        report.add(path, f"found {size} bytes, expected at most {MAX_ANNOTATIONS_BYTES} in all")

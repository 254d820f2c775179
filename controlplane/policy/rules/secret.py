"""Rules of Secret: its type, the size of it, that what TLS reads is PEM, can be read and belongs together.

Source: Kubernetes' secret validation; Istio's keys for `credentialName`.
Not:    what is wrong with certificates and keys that are PEM (key_pair).
Invariant: no message shows a value.
"""

import base64
import binascii
import re
from collections.abc import Iterator

from controlplane.policy.rules.key_pair import PRIVATE_LABELS, chain_problem, pair_problem
from controlplane.policy.secret import CERTIFICATE_KEYS, OPAQUE, ROOT_KEYS, TLS, Secret
from controlplane.policy.violations import Path, Report

MAX_BYTES = 512 * 1024  # of all values
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}", re.ASCII)
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END \1-----", re.ASCII)
_CHAINS = (*(chain for chain, _ in CERTIFICATE_KEYS), *ROOT_KEYS)
_PRIVATE_KEYS = tuple(key for _, key in CERTIFICATE_KEYS)
_HIDDEN = "found something else (not shown), expected "


def check_secret(spec: Secret, path: Path, report: Report) -> None:
    """Everything about one Secret on its own."""
    if spec.type not in (OPAQUE, TLS):
        report.refuse(path / "type", f"{OPAQUE} or {TLS}")
    places = {key: (path / name).key(key) for name, keys in _written(spec) for key in keys}
    size = sum(len(spec.pem(key).encode()) for key in places)
    if size > MAX_BYTES:
        report.add(path / "data", f"found {size} bytes, expected at most {MAX_BYTES} in all")
        return
    bad: set[str] = set()
    for key, place in places.items():
        problem = _problem(key, spec.pem(key))
        if problem:
            bad.add(key)
            report.add(place, problem)
    _check_pairs(report, path / "data", spec, places)
    _check_fit(report, spec, places, bad)
    if not places.keys() & {*_CHAINS, *_PRIVATE_KEYS}:
        report.warn(path / "data", f"holds nothing that the mesh uses: {', '.join((*_CHAINS, *_PRIVATE_KEYS))}")
    if spec.immutable:
        report.warn(path / "immutable", "has no effect here: the Secret can be changed")


def _problem(key: str, value: str) -> str:
    """What is wrong with one value on its own, or nothing."""
    if not _KEY.fullmatch(key):
        return "found another key, expected letters, digits, '-', '_' and '.', at most 253"
    if key in _CHAINS:
        return chain_problem(value) if _is_pem(value, ("CERTIFICATE",)) else f"{_HIDDEN}certificates in PEM"
    if key in _PRIVATE_KEYS and not _is_pem(value, PRIVATE_LABELS):
        return f"{_HIDDEN}a private key in PEM, not encrypted"
    return ""


def _check_fit(report: Report, spec: Secret, places: dict[str, Path], bad: set[str]) -> None:
    for chain, key in CERTIFICATE_KEYS:
        if {chain, key} <= places.keys() - bad:
            problem = pair_problem(spec.pem(chain), spec.pem(key), chain_name=chain)
            if problem:
                report.add(places[key], problem)


def _written(spec: Secret) -> Iterator[tuple[str, list[str]]]:
    yield "data", list(spec.data)
    yield "stringData", list(spec.string_data)


def _check_pairs(report: Report, data: Path, spec: Secret, places: dict[str, Path]) -> None:
    for index, pair in enumerate(CERTIFICATE_KEYS):
        required = spec.type == TLS and index == 0
        missing = [key for key in pair if key not in places]
        if missing and (required or len(missing) == 1):
            why = f"a Secret of type {TLS} holds {' and '.join(pair)}" if required else f"{' and '.join(pair)} together"
            report.add(data.key(missing[0]), f"found nothing, expected a value: {why}")


def _is_pem(text: str, labels: tuple[str, ...]) -> bool:
    """Whether it holds blocks of PEM with these labels and, but for parameters of a curve, no others."""
    blocks = [(label, body) for label, body in _BLOCK.findall(text) if label != "EC PARAMETERS"]
    return text.isascii() and bool(blocks) and all(label in labels and _is_der(body) for label, body in blocks)


def _is_der(body: str) -> bool:
    try:
        return base64.b64decode("".join(body.split()), validate=True)[:1] == b"\x30"
    except (binascii.Error, ValueError):
        return False

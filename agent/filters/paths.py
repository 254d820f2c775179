"""The path of a request in one spelling, so that routes and rules cannot be walked around.

Owns:   dot segments, needless percent-encoding, repeated slashes, paths that are refused.
Source: RFC 3986 5.2.4, 6.2.2.2 and 6.2.2.3; HttpConnectionManager.normalize_path and merge_slashes; data-plane.md 2.1
        and 2.2: a backslash or an encoded NUL is refused (Envoy passes them on). A dot segment may have parameters, as
        for Envoy, and for us in whatever encoding.
Invariants: normalising twice changes nothing more; the query is left as it came; an encoded slash stays encoded.
"""

import re
from typing import Final

REFUSED: Final = "path_normalization_failed"
# Unreserved characters, RFC 3986 2.3: encoding them changes nothing, so a path is the same with and without.
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
# A percent sign that is none of an escape, before what decoding would make one of it: `%%32e` is not `%2e`.
_DIGIT: Final = rb"%(?:3[0-9]|[46][1-6])"  # an encoded hexadecimal digit
_NESTED: Final = re.compile(rb"%(?=" + _DIGIT + rb"(?:[0-9A-Fa-f]|" + _DIGIT + rb")|[0-9A-Fa-f]" + _DIGIT + rb")")
_PERCENT: Final = 0x25
_BACKSLASH: Final = 0x5C
_SLASHES: Final = re.compile(rb"//+")


def needs_work(target: bytes, merge_slashes: bool) -> bool:
    """Whether `normalized` could change or refuse this target. Cheap: most targets are plain."""
    # A byte's number and `find`: `in` with bytes raises and drops an exception before it looks.
    if _PERCENT in target or _BACKSLASH in target or target.find(b"/.") >= 0:
        return True
    return merge_slashes and target.find(b"//") >= 0


def normalized(target: bytes, merge_slashes: bool) -> bytes | None:
    """The target (path and query) with its path normalised; None when it is refused."""
    path, mark, query = target.partition(b"?")
    if b"%" in path:
        path = _ESCAPE.sub(_unescaped, _NESTED.sub(b"%25", path))
        if b"%00" in path:
            return None
    if b"\\" in path:
        return None
    if b"/." in path:
        path = _without_dots(path)
    if merge_slashes:
        path = _SLASHES.sub(b"/", path)
    return path + mark + query


def merged(target: bytes) -> bytes:
    """The target with the repeated slashes of its path made one."""
    path, mark, query = target.partition(b"?")
    return _SLASHES.sub(b"/", path) + mark + query


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = int(found[1], 16)  # exactly two hexadecimal digits
    return bytes((code,)) if code in _UNRESERVED else found[0]


def _without_dots(path: bytes) -> bytes:
    """RFC 3986 5.2.4 for a path that begins with a slash. `..` at the root stays at the root."""
    done: list[bytes] = []
    segments = path[1:].split(b"/")
    last = len(segments) - 1
    for place, segment in enumerate(segments):
        dots = segment.partition(b";")[0]  # servers that know path parameters go up at `..;x` too
        if dots == b"..":
            if done:
                done.pop()
        elif dots != b".":
            done.append(segment)
            continue
        if place == last:
            done.append(b"")
    return b"/" + b"/".join(done)

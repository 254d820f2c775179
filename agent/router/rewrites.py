r"""What becomes of a path: rewrites of forwarded requests, and where redirects lead.

Owns:   prefix and regex rewrites, the URI of a redirect.
Not:    header fields that tell of a rewrite (agent.filters), hosts of forwarded requests.
Source: route_components.proto RouteAction.{prefix_rewrite,regex_rewrite}, RedirectAction; data-plane.md 1.9. The
        substitution of a regex rewrite is RE2's: `\0` to `\9` are groups, `\\` is a backslash.
Invariant: the query of a request is never rewritten, only kept or dropped.
"""

import re

from agent.codec.head import RequestHead
from agent.model.route import Forward, PathKind, Redirect, RouteMatch
from agent.router.matchers import compile_regex

_PORT = re.compile(rb":[0-9]*\Z")
_TARGET = re.compile(rb"[^\x00-\x20\x7f]*")
_ESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


class PathRewrite:
    """A rewrite, ready to be applied."""

    __slots__ = ("_kept_from", "_parts", "_prefix", "_regex")

    def __init__(self, match: RouteMatch, prefix: str, regex: tuple[str, str] | None) -> None:
        """Raises ValueError for a regex or a substitution that cannot be used."""
        self._prefix = _target_text(prefix)
        # What a prefix matched is replaced; exact paths and regexes have matched the whole.
        whole = match.path_kind in (PathKind.EXACT, PathKind.REGEX)
        self._kept_from = -1 if whole else len(match.path.encode())
        self._regex = compile_regex(regex[0]) if regex is not None else None
        groups = self._regex.groups if self._regex is not None else 0
        self._parts = _substitution(regex[1], groups) if regex is not None else ()

    def apply(self, target: bytes) -> bytes:
        """The rewritten target (path and query) of one that the route has matched."""
        path, mark, query = target.partition(b"?")
        if self._regex is not None:
            path = self._replaced(path)
        elif self._kept_from < 0:
            path = self._prefix
        else:
            path = self._prefix + path[self._kept_from :]
        return (path if path[:1] == b"/" else b"/" + path) + mark + query

    def _replaced(self, path: bytes) -> bytes:
        """Every match replaced, as RE2's GlobalReplace."""
        done: list[bytes] = []
        at = 0
        assert self._regex is not None
        for found in self._regex.finditer(path):
            done.append(path[at : found.start()])
            done.extend(part if isinstance(part, bytes) else found.group(part) or b"" for part in self._parts)
            at = found.end()
        done.append(path[at:])
        return b"".join(done)


def _target_text(text: str) -> bytes:
    raw = text.encode()
    if not _TARGET.fullmatch(raw):
        raise ValueError(f"found {text!r}, expected the text of a path, without spaces and control characters")
    return raw


def _substitution(text: str, groups: int) -> tuple[bytes | int, ...]:
    parts: list[bytes | int] = []
    at = 0
    raw = _target_text(text)
    for found in _ESCAPE.finditer(raw):
        parts.append(raw[at : found.start()])
        at = found.end()
        if found[1] == b"\\":
            parts.append(b"\\")
        elif found[1].isdigit() and int(found[1]) <= groups:
            parts.append(int(found[1]))
        else:
            raise ValueError(f"found {found[0].decode()!r} in the substitution {text!r}, expected \\0 to \\{groups}")
    parts.append(raw[at:])
    return tuple(part for part in parts if part != b"")


def path_rewrite(match: RouteMatch, action: Forward | Redirect) -> PathRewrite | None:
    """The action's rewrite, None when it has none. Raises ValueError."""
    regex = action.regex_rewrite if isinstance(action, Forward) else None
    if not action.prefix_rewrite and regex is None:
        return None
    return PathRewrite(match, action.prefix_rewrite, regex)


def redirect_location(action: Redirect, rewrite: PathRewrite | None, head: RequestHead) -> bytes:
    """The absolute URI that a redirect of this request names."""
    scheme = action.scheme.encode() or (b"https" if action.https else head.scheme)
    port = b":%d" % action.port if action.port else b""
    host = action.host.encode() or _kept_host(head, scheme, port)
    return b"%b://%b%b%b" % (scheme, host, port, _location_path(action, rewrite, head.path))


def _kept_host(head: RequestHead, scheme: bytes, port: bytes) -> bytes:
    """The request's own host; its port goes when another is named, or when it was the old scheme's default."""
    found = _PORT.search(head.authority)
    if found is None:
        return head.authority
    changed = scheme != head.scheme and found[0] == _DEFAULT_PORTS.get(head.scheme)
    return head.authority[: found.start()] if port or changed else head.authority


def _location_path(action: Redirect, rewrite: PathRewrite | None, target: bytes) -> bytes:
    """A query in the configured path is part of it and replaces the request's."""
    if rewrite is not None:
        target = rewrite.apply(target)
    path, mark, query = target.partition(b"?")
    if action.path:
        path = action.path.encode()
        if b"?" in path:
            return path
    return path if action.strip_query else path + mark + query

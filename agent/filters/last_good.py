"""Answers of before, for the time when there is no better one: a bounded cache of what went well.

Owns:   which answers may be kept and for whom they are good, how many and how large, their age.
Not:    when one is served (agent.proxy.circuit_breaker).
Source: RFC 9111 3 (what may be stored), 4.1 (Vary), 5.1 (Age), RFC 7234 5.5 (Warning 110 and 111). Served stale on
        purpose, so freshness (max-age, no-cache, must-revalidate) does not count; the policy's own age limit does.
Invariants: never more than `max_entries` answers, nor `max_bytes` of their bodies and fields, the least recently used
        go first; nothing that was asked for with Authorization or Cookie is kept or served, nor an answer that is
        private, not to be stored, or that sets a cookie.
"""

from collections import OrderedDict
from typing import Final

from agent.codec.head import RequestHead, ResponseHead
from agent.filters.response_headers import take_over
from agent.model.circuit_breaker import LastGood

_PERSONAL: Final = (b"authorization", b"cookie", b"range", b"proxy-authorization")
_SAFE: Final = frozenset({b"GET", b"HEAD"})
_VARIANTS: Final = 8  # of one URL
_OVERHEAD: Final = 256  # bytes of bookkeeping that an answer is counted with
_STALE: Final = b'110 gossamer "Response is Stale"'
_FAILED: Final = b'111 gossamer "Revalidation Failed"'
Key = tuple[bytes, bytes, bytes, bytes]
Varies = tuple[tuple[bytes, bytes], ...]  # (lower-case name of a request's field, its value)


class Asked:
    """A request as its client made it, before its route changes it. `scope` keeps callers and routes apart."""

    __slots__ = ("index", "key", "method")

    def __init__(self, scope: bytes, request: RequestHead) -> None:
        self.method = request.method
        self.key: Key = (scope, request.scheme, request.authority.lower(), request.path)
        self.index = dict(request.headers.index)

    @property
    def personal(self) -> bool:
        """What it is given may be for nobody else, or is a part."""
        return any(name in self.index for name in _PERSONAL)


class _Stored:
    """`varies`: what the answer was chosen by."""

    __slots__ = ("age_s", "at", "body", "head", "size", "varies")

    def __init__(self, head: ResponseHead, body: bytes, varies: Varies, now: float) -> None:
        self.head = head
        self.body = body
        self.varies = varies
        self.at = now
        self.age_s = _number(head.headers.index.get(b"age", b"0"))
        self.size = len(body) + sum([len(line) for line in head.headers.lines]) + _OVERHEAD


class LastGoodAnswers:
    """Those of one policy in one worker. `now`: monotonic seconds."""

    def __init__(self, limits: LastGood) -> None:
        self.limits = limits
        self._kept: OrderedDict[Key, list[_Stored]] = OrderedDict()
        self._count = 0
        self.bytes = 0

    def __len__(self) -> int:
        return self._count

    def may_keep(self, asked: Asked, head: ResponseHead) -> bool:
        """Whether the answer, which has just begun, is worth recording."""
        if asked.method != b"GET" or head.status != 200 or asked.personal:
            return False
        index = head.headers.index
        if b"set-cookie" in index or b"content-range" in index or b"*" in _named(index.get(b"vary", b"")):
            return False
        said = _directives(index.get(b"cache-control")) | _directives(asked.index.get(b"cache-control"))
        return not said & {b"no-store", b"private"} and head.content_length <= self.limits.max_bytes

    def keep(self, asked: Asked, head: ResponseHead, body: bytes, now: float) -> None:
        """The whole answer has come, and `may_keep` said that it may be kept."""
        varies = _varies(asked, head)
        made = _Stored(head, body, varies, now)
        if made.size > self.limits.max_bytes:
            return
        key = asked.key
        variants = [one for one in self._kept.get(key, ()) if one.varies != varies]
        self._drop(key)
        self._put(key, [*variants[-_VARIANTS + 1 :], made])
        while self._count > self.limits.max_entries or self.bytes > self.limits.max_bytes:
            oldest = next(iter(self._kept))
            left = self._kept[oldest][1:] if oldest == key else []
            self._drop(oldest)
            self._put(oldest, left)

    def find(self, asked: Asked, now: float, *, failed: bool) -> tuple[ResponseHead, bytes] | None:
        """(head, body) for the request, or None. `failed`: the service was asked just now, in vain."""
        if asked.method not in _SAFE or asked.personal:
            return None
        key, index = asked.key, asked.index
        variants = self._kept.get(key, [])
        fresh = [one for one in variants if now - one.at + one.age_s <= self.limits.max_age_s]
        if len(fresh) < len(variants):
            self._drop(key)
            self._put(key, fresh)
        for one in reversed(fresh):
            if all(index.get(name, b"") == value for name, value in one.varies):
                self._kept.move_to_end(key)
                return _answer(one, asked.method, now, failed)
        return None

    def _put(self, key: Key, variants: list[_Stored]) -> None:
        if variants:
            self._kept[key] = variants
            self._count += len(variants)
            self.bytes += sum([one.size for one in variants])

    def _drop(self, key: Key) -> None:
        gone = self._kept.pop(key, [])
        self._count -= len(gone)
        self.bytes -= sum([one.size for one in gone])


def copy_of(head: ResponseHead) -> ResponseHead:
    """A host's head as it may be kept: without what was for one connection only."""
    copied = ResponseHead(head.status, head.reason, head.headers.copy())
    take_over(copied, True, -1)
    return copied


def _answer(stored: _Stored, method: bytes, now: float, failed: bool) -> tuple[ResponseHead, bytes]:
    headers = stored.head.headers.copy()
    headers.set(b"content-length", b"%d" % len(stored.body))
    headers.set(b"age", b"%d" % int(now - stored.at + stored.age_s))
    headers.append(b"warning", _FAILED if failed else _STALE)
    head = ResponseHead(stored.head.status, stored.head.reason, headers)
    head.content_length = len(stored.body)
    return head, b"" if method == b"HEAD" else stored.body


def _named(vary: bytes) -> set[bytes]:
    return {name.strip().lower() for name in vary.split(b",")} - {b""}


def _varies(asked: Asked, head: ResponseHead) -> Varies:
    names = _named(head.headers.index.get(b"vary", b""))
    return tuple((name, asked.index.get(name, b"")) for name in sorted(names))


def _directives(value: bytes | None) -> set[bytes]:
    if value is None:
        return set()
    return {part.partition(b"=")[0].strip().lower() for part in value.split(b",")}


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 10 else 0

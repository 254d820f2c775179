"""Which token buckets a request takes from, and whether it may pass.

Owns:   finding the buckets of a request's descriptors, the order in which they are asked.
Not:    taking (token_buckets), answering (agent.proxy.local_rate_limit).
Source: Envoy's local_ratelimit_impl.cc: a bucket of the very descriptor, else one whose empty values stand for any,
        with a bucket for each; slow ones are asked first, and after a refusal no further one; the default one is last.
"""

from typing import Final

from agent.filters.rate_limit_descriptors import CompiledRule, Entries
from agent.filters.subject import Subject
from agent.filters.token_buckets import SharedBucket, TokenCells
from agent.model.rate_limit import DescriptorBucket, LocalRateLimit, TokenBucket
from agent.model.tags import tag_of

Matched = tuple[SharedBucket, int]  # with its tag
_DEFAULT: Final = "default"


class Verdict:
    """Whether a request passes. `bucket`: the one that says so, None = none has; `left_ns`: as TokenCells.take."""

    __slots__ = ("allowed", "bucket", "left_ns")

    def __init__(self, allowed: bool, bucket: SharedBucket | None, left_ns: int) -> None:
        self.allowed = allowed
        self.bucket = bucket
        self.left_ns = left_ns

    @property
    def remaining(self) -> int:
        """Tokens that are left."""
        if self.bucket is None:
            return 0
        level_ns = self.left_ns if self.allowed else self.left_ns + self.bucket.cost_ns
        return max(level_ns, 0) // self.bucket.cost_ns

    @property
    def retry_s(self) -> int:
        """In how many seconds a refused request may come again, at least 1."""
        return max(-(self.left_ns // 1_000_000_000), 1)


class _Wildcard:
    """A bucket for each of the values that the empty ones of `entries` may be."""

    __slots__ = ("bucket", "entries", "names")

    def __init__(self, config: DescriptorBucket) -> None:
        self.entries = config.entries
        self.bucket = _shared(config.bucket)
        self.names = tuple(f"{key}={value}" for key, value in config.entries)

    def takes(self, found: Entries) -> bool:
        own = self.entries
        if len(own) != len(found):
            return False
        return all(
            key == other_key and (not value or value == other)
            for (key, value), (other_key, other) in zip(own, found, strict=True)
        )


class LocalLimiter:
    """One configuration of the filter `name`. Raises re2.error for a matcher with a bad regex."""

    __slots__ = ("_default", "_exact", "_name", "_rules", "_tags", "config")

    def __init__(self, config: LocalRateLimit, name: str) -> None:
        self.config = config
        self._name = name
        exact = [one for one in config.buckets if all(value for _, value in one.entries)]
        wild = [_Wildcard(one) for one in config.buckets if not all(value for _, value in one.entries)]
        self._exact = {one.entries: _shared(one.bucket) for one in exact}
        compiled = [CompiledRule(rule) for rule in config.rules]
        self._rules = tuple(
            (made, tuple(one for one in wild if tuple(key for key, _ in one.entries) == made.keys)) for made in compiled
        )
        self._default = _shared(config.bucket) if config.bucket is not None else None
        self._tags: dict[tuple[str, Entries], int] = {}  # of the buckets that are always the same

    def check(self, cells: TokenCells, place: str, subject: Subject, now_ns: int) -> Verdict:
        """Take from all buckets of a request. `place`: whose buckets these are, a connection manager's prefix."""
        matched = self._matched(place, subject)
        if len(matched) > 1:
            matched.sort(key=_rate)
        first: Verdict | None = None
        for bucket, tag in matched:
            left_ns = cells.take(tag, bucket, now_ns)
            if left_ns < 0:
                return Verdict(False, bucket, left_ns)
            if first is None:
                first = Verdict(True, bucket, left_ns)
        default = self._default
        if default is not None and (first is None or self.config.always_default):
            left_ns = cells.take(self._tag(place, ()), default, now_ns)
            if left_ns < 0 or first is None:
                return Verdict(left_ns >= 0, default, left_ns)
        return first if first is not None else Verdict(True, None, 0)

    def _matched(self, place: str, subject: Subject) -> list[Matched]:
        found: list[Matched] = []
        for rule, wild in self._rules:
            entries = rule.entries(subject)
            if entries is None:
                continue
            bucket = self._exact.get(entries)
            if bucket is not None:
                found.append((bucket, self._tag(place, entries)))
                continue
            for one in wild:
                if one.takes(entries):
                    values = (value for _, value in entries)
                    found.append((one.bucket, tag_of((place, self._name, *one.names, *values))))
                    break
        return found

    def _tag(self, place: str, entries: Entries) -> int:
        key = (place, entries)
        tag = self._tags.get(key, 0)
        if not tag:
            names = (f"{name}={value}" for name, value in entries) if entries else (_DEFAULT,)
            tag = self._tags[key] = tag_of((place, self._name, *names))
        return tag


def _shared(bucket: TokenBucket) -> SharedBucket:
    return SharedBucket(bucket.max_tokens, bucket.tokens_per_fill, bucket.fill_interval_s)


def _rate(matched: Matched) -> float:
    return matched[0].rate

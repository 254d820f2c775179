"""The node's statistics: the sums of what its workers report, and their rendering for people and Prometheus.

Owns:   adding StatsDelta, gauges per worker, Envoy's tag extraction, the text formats.
Not:    counting (agent.stats in the worker).
Source: Envoy's /stats and /stats/prometheus; tags of source/common/config/well_known_names.cc; data-plane.md 1.11.
Invariants: a counter never falls; a worker's gauges go with it; names beyond MAX_NAMES (of gauges
        for each worker) are dropped and counted; gauges at 0 go first, which is no loss.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.ipc.messages import StatsDelta
from agent.stats import gossamer, istio
from agent.stats.histograms import BUCKETS_MS

MAX_NAMES = 200_000
_BUCKETS = len(BUCKETS_MS) + 1
Tags = tuple[tuple[str, str], ...]

# (what a name begins with, label, rest): the tagged part is taken out of the name.
_CODE = re.compile(r"(?P<head>.*_rq)_(?P<code>[1-5][0-9]{2})")
_CLASS = re.compile(r"(?P<head>.*_rq)_(?P<class>[1-5])xx")
_PREFIXES: Mapping[str, str] = {
    "cluster": "envoy_cluster_name",
    "http": "envoy_http_conn_manager_prefix",
    "tcp": "envoy_tcp_prefix",
    "listener": "envoy_listener_address",
}
_GROUPS = frozenset({"ssl", "outlier_detection", "circuit_breakers", "health_check"})
_LISTENER = re.compile(r"listener\.(?P<name>.+_[0-9]+)\.(?P<rest>.+)")


@dataclass(slots=True)
class Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    sum: float = 0.0


class Totals:
    """Sums over all workers, those that are gone included."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.histograms: dict[str, Histogram] = {}
        self.dropped = 0
        self._gauges: dict[int, dict[str, int]] = {}
        self._own_gauges: dict[str, int] = {}

    def add(self, worker: int, delta: StatsDelta) -> None:
        """Add one worker's report."""
        for name, increase in delta.counters.items():
            if name in self.counters or len(self.counters) < MAX_NAMES:
                self.counters[name] = self.counters.get(name, 0) + increase
            else:
                self.dropped += 1
        self._set_gauges(worker, delta.gauges)
        for name, increases in delta.histograms.items():
            if name not in self.histograms and len(self.histograms) >= MAX_NAMES:
                self.dropped += 1
                continue
            histogram = self.histograms.setdefault(name, Histogram())
            for index, increase in enumerate(increases[:_BUCKETS]):
                histogram.counts[index] += increase
            histogram.sum += delta.sums.get(name, 0.0)

    def _set_gauges(self, worker: int, values: Mapping[str, int]) -> None:
        known = self._gauges.setdefault(worker, {})
        known.update(values)
        if len(known) <= MAX_NAMES:
            return
        # There was more than there is: callers come and go.
        known = self._gauges[worker] = {name: value for name, value in known.items() if value}
        while len(known) > MAX_NAMES:
            known.popitem()
            self.dropped += 1

    def count(self, name: str, increase: int = 1) -> None:
        """Count something that the supervisor does."""
        self.counters[name] = self.counters.get(name, 0) + increase

    def set_gauge(self, name: str, value: int) -> None:
        """The supervisor's own gauge."""
        self._own_gauges[name] = value

    def replace_gauge(self, name: str, value: int | None) -> None:
        """The same; None = it has none any more."""
        if value is None:
            self.drop_gauge(name)
        else:
            self.set_gauge(name, value)

    def drop_gauge(self, name: str) -> None:
        self._own_gauges.pop(name, None)

    def forget_worker(self, worker: int) -> None:
        """A worker is gone: its gauges count no more."""
        self._gauges.pop(worker, None)

    def gauges(self) -> dict[str, int]:
        """Sums over the living workers."""
        found = dict(self._own_gauges)
        for values in self._gauges.values():
            for name, value in values.items():
                found[name] = found.get(name, 0) + value
        return found

    # --- rendering --------------------------------------------------------------------------------------------

    def as_text(self, part: str = "") -> str:
        """Envoy's /stats: `name: value`, sorted; histograms as their count and sum. `part`: only names that hold it."""
        rows = {**self.counters, **self.gauges()}
        lines = [(_shown(name), str(value)) for name, value in rows.items()]
        lines += [
            (_shown(name), f"count={sum(item.counts)} sum={item.sum:.3f}") for name, item in self.histograms.items()
        ]
        return "".join(f"{name}: {text}\n" for name, text in sorted(lines) if part in name)

    def as_prometheus(self) -> str:
        """The text exposition format, each metric's samples together."""
        metrics: dict[tuple[str, str], list[str]] = {}
        for kind, values in (("counter", self.counters), ("gauge", self.gauges())):
            for name, value in values.items():
                metric, tags = _extract(name)
                metrics.setdefault((metric, kind), []).append(f"{metric}{_labels(tags)} {value}")
        for name, histogram in self.histograms.items():
            metric, tags = _extract(name)
            metrics.setdefault((metric, "histogram"), []).extend(_histogram_lines(metric, tags, histogram))
        lines: list[str] = []
        for (metric, kind), samples in sorted(metrics.items()):
            lines.append(f"# TYPE {metric} {kind}")
            lines.extend(samples)
        return "\n".join(lines) + "\n"


def _extract(name: str) -> tuple[str, Tags]:
    """(metric name, tags) as Envoy's tag extraction gives them; Istio's metrics and our own bring theirs."""
    if name.startswith(istio.PREFIX):
        return istio.labels_of(name)
    if name.startswith(gossamer.PREFIX):
        return gossamer.labels_of(name)
    kind, subject, rest = _split(name)
    tags: list[tuple[str, str]] = []
    if subject:
        tags.append((_PREFIXES[kind], subject))
    for pattern, label, suffix, group in (
        (_CODE, "envoy_response_code", "", "code"),
        (_CLASS, "envoy_response_code_class", "_xx", "class"),
    ):
        found = pattern.fullmatch(rest)
        if found is not None:
            tags.append((label, found[group]))
            rest = found["head"] + suffix
    plain = re.sub(r"[^A-Za-z0-9_]", "_", f"{kind}_{rest}" if kind else rest)
    return f"envoy_{plain}", tuple(tags)


def _split(name: str) -> tuple[str, str, str]:
    """(kind, subject, rest); kind and subject empty when the name has no subject."""
    kind, _, _ = name.partition(".")
    if kind == "listener":
        found = _LISTENER.fullmatch(name)
        return (kind, found["name"], found["rest"]) if found else ("", "", name)
    if kind not in _PREFIXES:
        return "", "", name
    # A subject may hold dots; of our names only those in a group do.
    head, _, last = name.rpartition(".")
    group = head.rpartition(".")[2]
    if group in _GROUPS:
        head, last = head.rpartition(".")[0], f"{group}.{last}"
    return kind, head.partition(".")[2], last


def _shown(name: str) -> str:
    if not name.startswith((istio.PREFIX, gossamer.PREFIX)):
        return name
    metric, tags = _extract(name)
    return f"{metric}{_labels(tags)}"


def _labels(tags: Tags, *more: tuple[str, str]) -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in (*tags, *more)]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram_lines(metric: str, tags: Tags, histogram: Histogram) -> list[str]:
    lines: list[str] = []
    total = 0
    for bound, count in zip((*BUCKETS_MS, float("inf")), histogram.counts, strict=True):
        total += count
        le = "+Inf" if bound == float("inf") else f"{bound:.32g}"
        lines.append(f"{metric}_bucket{_labels(tags, ('le', le))} {total}")
    lines.append(f"{metric}_sum{_labels(tags)} {histogram.sum:.3f}")
    lines.append(f"{metric}_count{_labels(tags)} {total}")
    return lines

"""What the control plane's benchmark prints and draws: each goal beside its measurement, then the tables.

Not:    measuring (controlplane). Everything fits 80 columns.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
_MEMORY_KIB = 0.1e6 / 1024  # 0.1 MB


class Goal(NamedTuple):
    """One line: what, limit and measurement in one unit, whether it is met."""

    what: str
    limit: str
    measured: str
    met: bool

    @property
    def word(self) -> str:
        return "OK" if self.met else "MISSED"


def goals(result: Row) -> Iterator[Goal]:
    """Each target with what was measured."""
    main = result["main"]
    endpoint = main["changes"][0]
    size = f"{endpoint['services']} services x {endpoint['streams']} streams"
    yield _below(f"endpoint change, {size}", endpoint["last_ms"], 150, "ms")
    if many := result.get("many"):
        size = f"{many['services']} services x {many['streams']} streams"
        yield _below(f"endpoint change, {size}", many["last_ms"], 600, "ms")
    yield _below(f"POST to the last ACK of {endpoint['streams']}, p99", main["acknowledged"]["p99_ms"], 1000, "ms")
    others = main["interest"]["others_bytes"]
    yield Goal("bytes to streams that are not concerned", "0", str(others), others == 0)
    yield _below(f"memory per proxy, {endpoint['services']} services", main["memory_kib"], _MEMORY_KIB, "KiB")
    yield _below("the same, after all changes and a reconnect", main["memory_later_kib"], _MEMORY_KIB, "KiB")
    if many:
        yield _below(f"memory per proxy, {many['services']} services", many["memory_kib"], _MEMORY_KIB, "KiB")
    for event in ("reconnect", "cold_start"):
        bodies = main[event]["bodies"]
        yield Goal(f"resource bodies, {main[event]['event']}", "0", str(bodies), bodies == 0)


def _below(what: str, measured: float, limit: float, unit: str) -> Goal:
    return Goal(what, f"< {limit:.0f} {unit}", f"{measured:.0f} {unit}", measured < limit)


def show(say: Callable[[str], None], result: Row) -> None:
    """All of it."""
    about = result["machine"]
    say(
        f"\n{about['cpu']}, {about['cores']} cores, kernel {about['kernel']}, Python {about['python']},\n"
        f"grpcio {about['grpcio']}, uvloop {about['uvloop']}; {result['endpoints']} endpoints per service, one\n"
        f"connection per stream; medians of {result['rounds']} changes\n"
    )
    lines = [(goal.what, goal.limit, goal.measured, goal.word) for goal in goals(result)]
    _table(say, ("goal", "target", "measured", ""), lines)
    main = result["main"]
    _changes(say, [*main["changes"], *([result["many"]] if "many" in result else []), *result["curves"]])
    whole, acknowledged = main["whole"], main["acknowledged"]
    lines = [
        (
            f"{acknowledged['posts']} policies, p50 / p99",
            f"{acknowledged['p50_ms']:.0f} / {acknowledged['p99_ms']:.0f} ms", "", ""),
        (
            "rule for every host",
            f"{whole['ms']:.0f} ms",
            f"{whole['cpu_us_per_stream']:.0f}",
            f"{whole['bytes_per_stream'] / 1024:.0f}",
        ),
    ]  # fmt: skip
    _table(say, ("POST to the last ACK", "time", "CPU us/stream", "KiB/stream"), lines)
    lines = [
        (
            row["event"],
            f"{row['last_s']:.1f} s",
            f"{row['cpu_us_per_stream']:.0f}",
            f"{row['bytes_per_stream'] / 1024:.1f}",
        )
        for row in (main["connect"], main["reconnect"], main["cold_start"])
    ]
    _table(say, ("all streams at once", "last", "CPU us/stream", "KiB/stream"), lines)


def _changes(say: Callable[[str], None], rows: Sequence[Row]) -> None:
    titles = ("change, ms", "services", "streams", "stored", "first", "last", "worst", "us/stream", "bytes")
    fields = ("stored_ms", "first_ms", "last_ms", "worst_ms", "cpu_us_per_stream", "bytes_per_stream")
    lines = [
        (row["change"], str(row["services"]), str(row["streams"]), *(f"{row[field]:.0f}" for field in fields))
        for row in rows
    ]
    _table(say, titles, lines)


def _table(say: Callable[[str], None], titles: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[at]) for line in [titles, *lines]) for at in range(len(titles))]
    for line in (titles, ["-" * width for width in widths], *lines):
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        say("  ".join(cells).rstrip())
    say("")


def plot(result: Row, path: Path) -> None:
    """Time to the last delivery and CPU over the number of streams, a line for each number of services."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6))
    rows = [
        row for row in (*result["curves"], *result["main"]["changes"], *([result["many"]] if "many" in result else []))
    ]
    shown = (("last_ms", "ms from POST to the last delivery"), ("cpu_us_per_stream", "server CPU us per stream"))
    for axis, (field, title) in zip(axes, shown, strict=True):
        for kind, style in (("endpoint", "-"), ("route", "--")):
            for services in sorted({row["services"] for row in rows}):
                own = sorted(
                    (row["streams"], row[field]) for row in rows if (row["change"], row["services"]) == (kind, services)
                )
                axis.plot(*zip(*own, strict=True), style, marker="o", label=f"{kind}, {services} services")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("delta streams")
        axis.set_title(title, fontsize=10)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)

"""What `make bench-dataplane` makes of its samples: medians, ratios, goals, tables, a picture.

Not:    measuring (dataplane).

A ratio to Envoy is the median of the rounds' ratios: what disturbs a round disturbs both, so it may differ a little
from the quotient of the medians beside it.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from bench.dataplane_proxies import DIRECT, PEERS
from bench.dataplane_scenarios import SCENARIOS, Scenario

Row = dict[str, Any]
Sample = dict[str, float]
# The second differs from the first by just what its name says.
COMPARED = (
    ("hosts-10", "hosts-1000"),
    ("hosts-1000", "clusters-1000"),
    ("hosts-1000", "routes-1000"),
    ("headers", "connections-1000"),
    ("headers", "workers-2"),
    ("headers", "mtls"),
    ("mtls", "guarded"),
)
_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("CPU us\n/req", lambda row: f"{row['cpu_us_per_request']:.1f}"),
    ("x\nEnvoy", lambda row: f"{row['ratio_to_envoy']:.2f}"),
    ("req/s", lambda row: str(row["rps"])),
    ("p50\nms", lambda row: f"{row['p50_ms']:.2f}"),
    ("p99\nms", lambda row: f"{row['p99_ms']:.2f}"),
    ("MiB", lambda row: f"{row['pss_loaded_mib']:.1f}"),
    ("proxy\n%", lambda row: str(row["proxy_percent"])),
    ("helpers\n%", lambda row: f"{row['helpers_percent']}{'*' if _is_limited(row) else ''}"),
    ("err", lambda row: str(row["errors"])),
)
_OF_PROXIES = ("CPU us\n/req", "x\nEnvoy", "MiB", "proxy\n%")


class Goal(NamedTuple):
    """One line: what, limit and measurement, whether it is met."""

    what: str
    limit: str
    measured: str
    met: bool


def row(scenario: Scenario, name: str, samples: Mapping[tuple[str, str], Sequence[Sample]]) -> Row:
    """Medians of a scenario's rounds for one proxy. Percentages are of one core."""
    own, envoy = samples[scenario.name, name], samples[scenario.name, "envoy"]

    def median(of: Callable[[Sample], float]) -> float:
        return statistics.median(map(of, own))

    cpu_us = median(lambda sample: sample["cpu_us"])
    ratios = [of_envoy["cpu_us"] / mine["cpu_us"] for of_envoy, mine in zip(envoy, own, strict=True) if mine["cpu_us"]]
    return {
        "scenario": scenario.name,
        "proxy": name,
        "workers": scenario.workers,
        "connections": scenario.connections,
        "rate": scenario.rate,
        "rps": round(median(lambda sample: sample["rps"])),
        "cpu_us_per_request": round(cpu_us, 1),
        "rps_per_core": round(1e6 / cpu_us) if cpu_us else 0,
        "ratio_to_envoy": round(statistics.median(ratios), 2) if ratios else 0.0,
        "p50_ms": round(median(lambda sample: sample["p50_ms"]), 3),
        "p99_ms": round(median(lambda sample: sample["p99_ms"]), 3),
        "proxy_percent": round(median(lambda sample: sample["cpu_s"] / sample["seconds"]) * 100),
        "helpers_percent": round(median(lambda sample: sample["helpers_s"] / sample["seconds"]) * 100),
        "errors": sum(int(sample["errors"]) for sample in own),
        # Of the first round: later ones find what other scenarios have left in the same proxy.
        "pss_loaded_mib": round(own[0]["pss_mib"], 1),
    }


def _is_limited(own: Row) -> bool:
    """Whether the load generator and the origin are what limits requests/s in a closed loop of many connections."""
    closed = not own["rate"] and own["connections"] > 1 and own["proxy"] != DIRECT
    return bool(closed and own["helpers_percent"] > own["proxy_percent"] / own["workers"])


def _find(result: Row, scenario: str, proxy: str) -> Row | None:
    return next((own for own in result["rows"] if (own["scenario"], own["proxy"]) == (scenario, proxy)), None)


def _proxies(result: Row) -> list[str]:
    """The names in the order of the tables, without the one that is none."""
    names = dict.fromkeys(own["proxy"] for own in result["rows"])
    return [name for name in names if name != DIRECT]


def goals(result: Row) -> Iterator[Goal]:
    """Each goal whose rows were measured."""
    for proxy in (name for name in ("agent", "compiled") if name in _proxies(result)):
        ratios = {"headers": 2.0 if proxy == "compiled" else 1.2, **({"mtls": 1.3} if proxy == "compiled" else {})}
        for scenario, least in ratios.items():
            if own := _find(result, scenario, proxy):
                ratio = own["ratio_to_envoy"]
                yield Goal(f"{proxy}, {scenario}: x Envoy", f">= {least}", f"{ratio:.2f}", ratio >= least)
        for scenario in ("latency", "latency-mtls"):
            own, envoy = _find(result, scenario, proxy), _find(result, scenario, "envoy")
            if own and envoy:
                limit, measured = envoy["p99_ms"], own["p99_ms"]
                what = f"{proxy}, {scenario}: p99 ms at {own['rate']:.0f}/s"
                yield Goal(what, f"<= {limit:.2f}", f"{measured:.2f}", measured <= limit)
        if idle := result["idle_mib"].get("many hosts"):
            limit, measured = idle["envoy"], idle[proxy]
            yield Goal(f"{proxy}, 1000 clusters: MiB", f"< {limit:.1f}", f"{measured:.1f}", measured < limit)
        few, many = _find(result, "hosts-10", proxy), _find(result, "hosts-1000", proxy)
        if few and many:
            times = many["cpu_us_per_request"] / few["cpu_us_per_request"]
            yield Goal(f"{proxy}, 1000 hosts: CPU of 10 hosts x", "< 2", f"{times:.2f}", times < 2)


def show_scenarios(console: Console) -> None:
    """What `--list` prints."""
    for own in SCENARIOS:
        console.print(f"{own.name:<17} {own.says}", highlight=False)


def show(console: Console, result: Row) -> None:
    """All tables."""
    about, method = result["machine"], result["method"]
    console.print(
        f"\n{about['cpu']}, {about['cores']} cores, kernel {about['kernel']}, Python {about['python']}, "
        f"Envoy {about['envoy']}; medians of {method['rounds']} rounds of {method['seconds']:g} s; x Envoy: of the CPU "
        "time per request",
        highlight=False,
    )
    _show_rows(console, result)
    _show_added(console, result)
    _show_compared(console, result)
    _show_memory(console, result)
    _show_goals(console, result)


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number and title else "left", no_wrap=True)
    return table


def _show_rows(console: Console, result: Row) -> None:
    table = _table("", "", *(title for title, _ in _COLUMNS))
    before = ""
    for own in result["rows"]:
        cells = ["-" if own["proxy"] == DIRECT and title in _OF_PROXIES else say(own) for title, say in _COLUMNS]
        if before and before != own["scenario"]:
            table.add_section()
        table.add_row("" if own["scenario"] == before else own["scenario"], own["proxy"], *cells)
        before = own["scenario"]
    console.print(table)
    for name in result["not_installed"]:
        console.print(f"{name}: not installed", highlight=False)
    if any(map(_is_limited, result["rows"])):
        console.print(
            "* load generator and origin had more to do than the proxy, so requests/s, p50 and p99 are theirs;\n"
            "  CPU per request is not touched by it",
            highlight=False,
            soft_wrap=True,
        )


def _show_added(console: Console, result: Row) -> None:
    table = _table("latency added, ms", "", "p50", "p99", "without: p50", "p99")
    for own in result["rows"]:
        direct = _find(result, own["scenario"], DIRECT)
        if direct is None or own is direct:
            continue
        added = [f"{own[name] - direct[name]:.2f}" for name in ("p50_ms", "p99_ms")]
        table.add_row(own["scenario"], own["proxy"], *added, f"{direct['p50_ms']:.2f}", f"{direct['p99_ms']:.2f}")
    if table.rows:
        console.print(table)


def _show_compared(console: Console, result: Row) -> None:
    names = [name for name in _proxies(result) if name not in PEERS]
    table = _table("CPU us per request", *names)
    for before, after in COMPARED:
        cells = []
        for name in names:
            first, second = _find(result, before, name), _find(result, after, name)
            both = [own["cpu_us_per_request"] for own in (first, second) if own]
            cells.append(f"{both[0]:.1f} -> {both[1]:.1f}" if len(both) == 2 else "")
        if any(cells):
            table.add_row(f"{before} -> {after}", *cells)
    if table.rows:
        console.print(table)


def _show_memory(console: Console, result: Row) -> None:
    names = list(dict.fromkeys(name for of_stage in result["idle_mib"].values() for name in of_stage))
    if not names:
        return
    table = _table("outbound proxy, idle, MiB", *names)
    for stage, of_stage in result["idle_mib"].items():
        table.add_row(stage, *(f"{of_stage[name]:.1f}" for name in names))
    console.print(table)


def _show_goals(console: Console, result: Row) -> None:
    table = _table("goal", "target", "measured", "")
    for goal in goals(result):
        table.add_row(goal.what, goal.limit, goal.measured, "OK" if goal.met else "MISSED")
    if table.rows:
        console.print(table)


def plot(result: Row, path: Path) -> None:
    """Requests per second per core of each proxy, as multiples of Envoy's."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = [name for name in _proxies(result) if name != "envoy"]
    scenarios = list(dict.fromkeys(own["scenario"] for own in result["rows"]))
    figure, axis = pyplot.subplots(figsize=(9, 1.2 + 0.22 * len(scenarios) * max(len(names), 1)))
    height = 0.8 / max(len(names), 1)
    for place, name in enumerate(names):
        found = [_find(result, scenario, name) for scenario in scenarios]
        values = [own["ratio_to_envoy"] if own else 0.0 for own in found]
        bars = axis.barh([number + place * height for number in range(len(scenarios))], values, height, label=name)
        axis.bar_label(bars, [f"{value:.2f}" if value else "" for value in values], fontsize=7)
    axis.set_yticks([number + 0.4 - height / 2 for number in range(len(scenarios))], scenarios, fontsize=8)
    axis.axvline(1.0, color="#8a8a8a", linewidth=1)
    axis.invert_yaxis()
    axis.set_xlabel("requests per second per core, Envoy = 1")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)

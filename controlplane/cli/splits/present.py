"""How a service's requests are split now: by its rules, and as callers report them.

Owns:   joining rules, subsets and the load of the last minute; the tables.
Not:    changing anything (change).
Source: /mesh/v1/traffic: callers' own reports, every 5 s; copies of mirrored requests count where they went.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.cli.output.tables import one_line, pairs, table
from controlplane.cli.output.terminal import Terminal
from controlplane.cli.splits import rules, subsets
from controlplane.cli.splits.target import Target
from controlplane.cli.state import Item


def present(target: Target, traffic: Iterable[Item]) -> dict[str, Any]:
    """JSON-ready: `rules` of the VirtualService that route to it, `subsets` with their live share (0..1)."""
    found = rules.virtual_service_of(target)
    return {
        "service": target.host,
        "virtualService": rules.name_of(found) if found is not None else "",
        "destinationRules": [rules.name_of(item) for item in target.destination_rules],
        "rules": _rules(found, target) if found is not None else [],
        "subsets": _subsets(target, [item for item in traffic if item["service"] == target.host]),
    }


def _rules(item: Item, target: Target) -> list[Item]:
    namespace = item["metadata"]["namespace"]
    shown = []
    for index, rule in enumerate(item["spec"].get("http", ())):
        own = [part for part in rules.weighted(rule) if target.is_named(part["destination"]["host"], namespace)]
        if own:
            total = sum(part["weight"] for part in rules.weighted(rule)) or 1
            shown.append(
                {
                    "rule": rules.called(item, index),
                    "match": rule.get("match", []),
                    "split": [
                        {
                            "subset": part["destination"].get("subset", ""),
                            "weight": part["weight"],
                            "share": round(part["weight"] / total, 4),
                        }
                        for part in own
                    ],
                    "mirrors": _mirrors(rule, target, namespace),
                }
            )
    return shown


def _mirrors(rule: Item, target: Target, namespace: str) -> list[Item]:
    old = rule.get("mirror")
    percentage = rule.get("mirrorPercentage", {"value": rule.get("mirrorPercent", 100)})
    every = [*rule.get("mirrors", ()), *([{"destination": old, "percentage": percentage}] if old else [])]
    return [
        {
            "subset": part["destination"].get("subset", ""),
            "percent": part.get("percentage", {"value": 100}).get("value", 0),
        }
        for part in every
        if target.is_named(part["destination"]["host"], namespace)
    ]


def _subsets(target: Target, traffic: list[Item]) -> list[Item]:
    """Those that are defined; then all instances, if there were requests without a subset or none is defined."""
    total = sum(item["requests_per_s"] for item in traffic)
    known = list(subsets.all_of(target))
    if not known or not all(item["subset"] for item in traffic):
        known.append(subsets.whole(target))
    return [
        {
            "subset": subset.name,
            "labels": dict(subset.labels),
            "endpoints": {"total": subset.total, "healthy": subset.healthy, "ejected": subset.ejected},
            **_load([item for item in traffic if item["subset"] == subset.name], total),
        }
        for subset in known
    ]


def _load(items: list[Item], total: float) -> Item:
    requests = sum(item["requests_per_s"] for item in items)
    errors = sum(item["errors_per_s"] for item in items)
    return {
        "requests_per_s": round(requests, 3),
        "live_share": round(requests / total, 4) if total else 0.0,
        "error_share": round(errors / requests, 4) if requests else 0.0,
    }


# --- tables


def render(found: Mapping[str, Any], terminal: Terminal) -> str:
    """What holds, then the rules, then the subsets."""
    head = (
        ("Service", found["service"]),
        ("VirtualService", found["virtualService"] or "none: requests go to every instance"),
        ("DestinationRules", ", ".join(found["destinationRules"]) or "none"),
    )
    text = pairs((name, one_line(value)) for name, value in head)
    if found["rules"]:
        rows = [row for rule in found["rules"] for row in _rows(rule)]
        text += "\n" + table(("rule", "requests", "subset", "weight", "share", "copies to"), rows, terminal=terminal)
    columns = ("subset", "labels", "healthy", "requests/s", "live share", "errors")
    return text + "\n" + table(columns, [_subset_row(item) for item in found["subsets"]], terminal=terminal)


def _rows(rule: Item) -> list[tuple[str, ...]]:
    copies = ", ".join(f"{item['subset'] or '(all)'} {item['percent']:g}%" for item in rule["mirrors"])
    head = (rule["rule"], _words(rule["match"]))
    return [
        (*head, part["subset"] or "(all)", str(part["weight"]), f"{part['share']:.1%}", copies)
        for part in rule["split"]
    ]


def _words(matches: list[Item]) -> str:
    """`all others`, or the conditions in short: `uri prefix /a, header x=1; ...`."""
    return "; ".join(_match(match) or "all" for match in matches) or "all others"


def _match(match: Item) -> str:
    parts = []
    for name, value in match.items():
        if name in ("headers", "withoutHeaders", "queryParams"):
            word = {"headers": "header", "withoutHeaders": "no header", "queryParams": "query"}[name]
            parts += [f"{word} {key} {_string(condition)}".rstrip() for key, condition in value.items()]
        elif isinstance(value, dict) and name != "sourceLabels":
            parts.append(f"{name} {_string(value)}")
        elif name not in ("name", "statPrefix"):
            parts.append(f"{name} {value}")
    return ", ".join(parts)


def _string(condition: Item) -> str:
    return " ".join(f"{kind} {text}" for kind, text in condition.items()).removeprefix("exact ")


def _subset_row(item: Item) -> tuple[str, ...]:
    count = item["endpoints"]
    healthy = f"{count['healthy']}/{count['total']}" + (f" ({count['ejected']} ejected)" if count["ejected"] else "")
    idle = not item["requests_per_s"]
    return (
        item["subset"] or "(all)",
        ",".join(f"{key}={value}" for key, value in item["labels"].items()),
        healthy,
        f"{item['requests_per_s']:.1f}",
        "" if idle else f"{item['live_share']:.1%}",
        "" if idle else f"{item['error_share']:.1%}",
    )

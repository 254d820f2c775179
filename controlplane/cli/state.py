"""Reading the mesh's state from /mesh/v1: the lists of all views, and what is said when an answer is not whole.

Source: controlplane/api/state_json.py has the shapes.
"""

import sys
from datetime import UTC, datetime
from typing import Any

from controlplane.cli.client import Client, Query
from controlplane.cli.output.tables import one_line
from mesh.errors import ErrorCode, MeshError

Item = dict[str, Any]


async def items(client: Client, view: str, query: Query | None = None) -> list[Item]:
    """The items of a view (`proxies`, `endpoints`, ...)."""
    value = await client.get(f"/mesh/v1/{view}", {key: text for key, text in (query or {}).items() if text})
    if not isinstance(value, dict):
        raise MeshError(
            ErrorCode.UNREADABLE, f"found {type(value).__name__}, expected the items of {view}", subject=view
        )
    for silent in value.get("silent", ()):
        reason = one_line(silent["reason"])
        print(f"Warning: {silent['replica']} does not answer ({reason}); its proxies are missing here", file=sys.stderr)
    return list(value.get("items", ()))


def waiting(item: Item) -> str:
    """`CDS outbound|80||a waits for acknowledgement`: one of the `waits_for` of a revision."""
    words = (item["type"], item["name"], "waits for", item["waits_for"])
    return one_line(" ".join(word for word in words if word))


def unasked(proxy: Item) -> str:
    """What the first state of a proxy lacks because it has not asked for it, or nothing."""
    found = proxy.get("unasked", "")  # a server of an earlier version does not say
    return f"has not asked for {one_line(found)} yet" if found else ""


def age(stamp: str, now: datetime | None = None) -> str:
    """`5s`, `12m`, `3h20m`, `4d`: how long ago an RFC 3339 time was; empty for none."""
    try:
        then = datetime.fromisoformat(stamp)
    except ValueError:
        return ""
    return span(((now or datetime.now(UTC)) - then).total_seconds())


def left(stamp: str, now: datetime | None = None) -> str:
    """How long until an RFC 3339 time; `0s` when it has passed, empty for none."""
    try:
        then = datetime.fromisoformat(stamp)
    except ValueError:
        return ""
    return span((then - (now or datetime.now(UTC))).total_seconds())


def span(seconds: float) -> str:
    """A duration in the two largest units that say something."""
    total = max(int(seconds), 0)
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 120:
        return f"{total}s"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 10:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{days}d"


def clock(stamp: str) -> str:
    """`10:20:30` UTC of an RFC 3339 time; empty for none."""
    return stamp.partition("T")[2].partition(".")[0].rstrip("Z")

"""A response of either protocol before it is bytes, and its size. Sans-io.

Source: control-plane.md 5, rules 7, 24, 25.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from controlplane.compiler.types import Resource

# A quarter of gRPC's default limit of 4 MiB for what a client receives: responses that can be split are.
MAX_RESPONSE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """A response to send.

    `removed` is empty in SotW, where `missing` says which of the names that were asked for do not exist. `ttl`: the
    client understands TTLs; `heartbeat`: it only renews them, without bodies.
    """

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()
    ttl: bool = False
    heartbeat: bool = False
    missing: tuple[str, ...] = ()


def split(changed: Mapping[str, Resource | None]) -> Iterator[dict[str, Resource | None]]:
    """Parts of at most MAX_RESPONSE_BYTES each (a larger resource stands alone); nothing for nothing."""
    part: dict[str, Resource | None] = {}
    size = 0
    for name, resource in changed.items():
        cost = len(name) + (len(resource.any_bytes) if resource is not None else 0)
        if part and size + cost > MAX_RESPONSE_BYTES:
            yield part
            part, size = {}, 0
        part[name] = resource
        size += cost
    if part:
        yield part

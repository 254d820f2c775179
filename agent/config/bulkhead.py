"""The bulkheads of a route. Source: proto/mesh/api/v1/bulkhead.proto."""

from agent.config.durations import seconds_or
from agent.config.fields import item, only, refuse, within
from agent.model.bulkhead import Bulkhead, Bulkheads
from mesh.api.v1.bulkhead_pb2 import Bulkhead as Message
from mesh.api.v1.bulkhead_pb2 import BulkheadPerRoute

MAX_QUEUE = 100_000


def bulkheads(message: BulkheadPerRoute, path: str) -> Bulkheads:
    """Those of a route."""
    only(message, path, frozenset({"bulkheads"}))
    return Bulkheads(
        bulkheads=tuple(_bulkhead(one, item(path, "bulkheads", index)) for index, one in enumerate(message.bulkheads))
    )


def _bulkhead(message: Message, path: str) -> Bulkhead:
    only(message, path, frozenset(message.DESCRIPTOR.fields_by_name))
    if not message.name:
        raise refuse(within(path, "name"), message.name, "the policy's namespace/name")
    for name in ("max_concurrent", "max_per_caller"):
        if not getattr(message, name):
            raise refuse(within(path, name), 0, "a number of at least 1")
    if message.queue > MAX_QUEUE:
        raise refuse(within(path, "queue"), message.queue, f"at most {MAX_QUEUE}")
    return Bulkhead(
        name=message.name,
        clusters=frozenset(message.clusters),
        most=message.max_concurrent,
        most_per_caller=message.max_per_caller,
        queue=message.queue,
        max_wait_s=seconds_or(message, "max_wait", path, 0.0),
        by_certificate=message.by_certificate,
    )

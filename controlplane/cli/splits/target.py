"""The service whose requests are split, with everything that says where they go now.

Owns:   finding it and its VirtualServices, DestinationRules and endpoints; what a host in one of them means.
Not:    changing them (rules, subsets), the live share (present).
Source: /mesh/v1/services and endpoints; the objects themselves, as they are stored.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.cli import state
from controlplane.cli.client import Client
from controlplane.cli.output.tables import one_line
from controlplane.cli.resources import object_path
from controlplane.cli.state import Item
from controlplane.policy.hosts import resolve
from controlplane.policy.kinds import DESTINATION_RULE, VIRTUAL_SERVICE, KindInfo
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_DOMAIN_SUFFIX, DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A service. `virtual_services`, `destination_rules`: manifests that hold for it, as the server lists them."""

    service: Item
    virtual_services: tuple[Item, ...]
    destination_rules: tuple[Item, ...]
    endpoints: tuple[Item, ...]

    @property
    def host(self) -> str:
        """The full host."""
        return str(self.service["host"])

    @property
    def name(self) -> str:
        """What its objects are called."""
        return str(self.service["name"] or self.host)

    @property
    def namespace(self) -> str:
        return str(self.service["namespace"] or DEFAULT_NAMESPACE)

    @property
    def short(self) -> str:
        """The shortest host that means it in its own namespace."""
        return self.name if self.is_named(self.name, self.namespace) else self.host

    def is_named(self, host: str, namespace: str) -> bool:
        """Whether `host` in an object of `namespace` means exactly this service."""
        head = f"{self.name}.{self.namespace}."
        suffix = self.host.removeprefix(head) if self.host.startswith(head) else DEFAULT_DOMAIN_SUFFIX
        return resolve(host, namespace, domain_suffix=suffix) == self.host


async def find(client: Client, service: str, namespace: str, *, virtual_service: str = "") -> Target:
    """The service of that name. `virtual_service`: [NAMESPACE/]NAME of the one to take. Raises NOT_FOUND, INVALID."""
    found = await _only(client, service, namespace)
    own = namespace or str(found["namespace"]) or DEFAULT_NAMESPACE
    named = [_named(virtual_service, own)] if virtual_service else _refs(found["virtual_services"])
    routes, rules, endpoints = await asyncio.gather(
        _manifests(client, VIRTUAL_SERVICE, named),
        _manifests(client, DESTINATION_RULE, _refs(found["destination_rules"])),
        state.items(client, "endpoints", {"service": found["host"]}),
    )
    return Target(service=found, virtual_services=routes, destination_rules=rules, endpoints=tuple(endpoints))


async def _only(client: Client, service: str, namespace: str) -> Item:
    found = await state.items(client, "services", {"service": service, "namespace": namespace})
    if not found:
        raise MeshError(
            ErrorCode.NOT_FOUND, "no such service", subject=service,
            hint="meshctl services lists them; -n for another namespace",
        )  # fmt: skip
    preferred = [item for item in found if item["namespace"] == DEFAULT_NAMESPACE] if len(found) > 1 else found
    if len(preferred) != 1:
        hosts = ", ".join(one_line(item["host"]) for item in found)
        raise MeshError(
            ErrorCode.INVALID, f"found {hosts}, expected one service", subject=service, hint="give the host"
        )
    return preferred[0]


def _named(text: str, namespace: str) -> tuple[str, str]:
    own, slash, name = text.rpartition("/")
    if not name or "/" in own or (slash and not own):
        raise MeshError(
            ErrorCode.SETTINGS, f"found {text!r}, expected NAME or NAMESPACE/NAME", subject="--virtual-service"
        )
    return own or namespace, name


def _refs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """(namespace, name) of each `VirtualService default/reviews`."""
    parts = [text.partition(" ")[2].partition("/") for text in texts]
    return [(namespace, name) for namespace, _, name in parts]


async def _manifests(client: Client, kind: KindInfo, refs: Sequence[tuple[str, str]]) -> tuple[Item, ...]:
    paths = [object_path(kind, namespace, name) for namespace, name in refs]
    return tuple(await asyncio.gather(*(client.get(path) for path in paths)))

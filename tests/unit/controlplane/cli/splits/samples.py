"""A service reviews with versions v1 and v2 as the server shows it, and its objects."""

from typing import Any

from controlplane.cli.splits.target import Target

HOST = "reviews.shop.svc.cluster.local"


def destination(subset: str = "", host: str = "reviews", **more: Any) -> dict[str, Any]:
    return {"destination": {"host": host, **({"subset": subset} if subset else {})}, **more}


def virtual_service(*http: dict[str, Any], name: str = "reviews", hosts: Any = ("reviews",)) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": "7", "labels": {"team": "a"}},
        "spec": {"hosts": list(hosts), "exportTo": ["."], "http": list(http)},
    }


def destination_rule(*names: str, name: str = "reviews", host: str = "reviews", **more: Any) -> dict[str, Any]:
    subsets = [{"name": subset, "labels": {"version": subset}} for subset in names]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": "8"},
        "spec": {"host": host, **more, **({"subsets": subsets} if subsets else {})},
    }


def endpoint(version: str, health: str = "HEALTHY", *, ejected: bool = False) -> dict[str, Any]:
    ejections = [{"enforced": ejected, "subset": "", "node": "node-1"}]
    return {"labels": {"app": "reviews", "version": version}, "health": health, "ejections": ejections}


def target(
    *routes: dict[str, Any],
    rules: tuple[dict[str, Any], ...] | None = None,
    endpoints: tuple[dict[str, Any], ...] | None = None,
) -> Target:
    """By default with v1 and v2, defined and healthy."""
    return Target(
        service={"host": HOST, "name": "reviews", "namespace": "shop"},
        virtual_services=routes,
        destination_rules=(destination_rule("v1", "v2"),) if rules is None else rules,
        endpoints=(endpoint("v1"), endpoint("v2")) if endpoints is None else endpoints,
    )

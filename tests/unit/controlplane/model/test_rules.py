"""Which rules hold: DestinationRule look-up and merge, VirtualService selection, PeerAuthentication."""

import pytest

from controlplane.model.destination_rules import Client, MergedRule, find_rule
from controlplane.model.peer_authentication import PeerPolicies
from controlplane.model.traffic_policies import effective_policy
from controlplane.model.virtual_services import chosen
from controlplane.policy.objects import PolicyObject
from controlplane.policy.peer_authentication import MutualTLSMode
from tests.support.compiling import parse

HOST = "reviews.shop.svc.cluster.local"
SUFFIX = "svc.cluster.local"


def rule(name: str, namespace: str, host: str = HOST, more: str = "") -> str:
    return (
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n"
        f'metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{host: "{host}"{more}}}\n'
    )


def found(text: str, namespace: str = "web", labels: tuple[tuple[str, str], ...] = ()) -> MergedRule:
    objects, _, _ = parse(text)
    client = Client(namespace=namespace, labels=labels)
    return find_rule(
        objects, HOST, client, service_namespace="shop", root_namespace="istio-system", domain_suffix=SUFFIX
    )


def names(merged: MergedRule) -> list[str]:
    return [item.metadata.name for item in merged.rules]


@pytest.mark.parametrize(
    ("namespaces", "winner"),
    [
        (("web", "shop", "istio-system"), "web"),
        (("shop", "istio-system"), "shop"),
        (("istio-system",), "istio-system"),
        (("elsewhere",), None),
    ],
)
def test_lookup_order(namespaces: tuple[str, ...], winner: str | None) -> None:
    """Client, service, root; never anywhere else (2.4.1)."""
    merged = found("".join(rule(namespace, namespace) for namespace in reversed(namespaces)))
    assert names(merged) == ([winner] if winner else [])


def test_no_merging_across_levels() -> None:
    text = rule("mine", "web", more=", trafficPolicy: {outlierDetection: {}}") + rule(
        "theirs", "shop", more=", subsets: [{name: v1}]"
    )
    assert found(text).subsets == ()


def test_not_exported_is_not_used() -> None:
    assert names(found(rule("private", "shop", more=', exportTo: ["."]') + rule("root", "istio-system"))) == ["root"]


def test_client_in_the_root_namespace() -> None:
    """Only root's private rules come before the service's (2.4.1)."""
    text = rule("root", "istio-system") + rule("theirs", "shop")
    assert names(found(text, "istio-system")) == ["theirs"]
    private = rule("private", "istio-system", more=', exportTo: ["."]')
    assert names(found(text + private, "istio-system")) == ["private"]


def test_most_specific_host() -> None:
    text = rule("wide", "web", "*.local") + rule("narrow", "web", "*.shop.svc.cluster.local")
    assert names(found(text)) == ["narrow"]
    assert names(found(text + rule("exact", "web"))) == ["exact"]


def test_merge() -> None:
    """Subsets are joined, the first of a name and the first policy count (2.4.3)."""
    text = (
        rule("first", "web", more=", subsets: [{name: v1, labels: {v: '1'}}]")
        + rule(
            "second", "web", more=", trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1}, {name: v2}]"
        )
        + rule("third", "web", more=", trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}")
    )
    merged = found(text)
    assert names(merged) == ["first", "second", "third"]
    assert [subset.name for subset, _ in merged.subsets] == ["v1", "v2"]
    assert merged.subsets[0][0].labels == {"v": "1"}
    assert merged.policy_source is not None
    assert merged.policy_source.metadata.name == "second"


def test_workload_selector() -> None:
    """It sorts first, is for matching callers of its namespace, and does not merge with others."""
    text = rule("all", "web", more=", subsets: [{name: v1}]") + rule(
        "some", "web", more=", workloadSelector: {matchLabels: {app: a}}"
    )
    assert names(found(text, labels=(("app", "a"),))) == ["some"]
    assert names(found(text, labels=(("app", "b"),))) == ["all"]


def test_effective_policy() -> None:
    """Port-level settings replace wholesale, a subset overrides per block (2.4.4)."""
    policy = """, trafficPolicy: {
      loadBalancer: {simple: RANDOM}, outlierDetection: {}, connectionPool: {tcp: {maxConnections: 7}},
      portLevelSettings: [{port: {number: 81}, connectionPool: {tcp: {maxConnections: 9}}}]},
      subsets: [{name: v1, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]"""
    merged = found(rule("r", "web", more=policy))
    top, port = effective_policy(merged, 80), effective_policy(merged, 81)
    assert (top.connection_pool.max_connections, top.load_balancer.algorithm) == (7, "RANDOM")
    assert (port.connection_pool.max_connections, port.load_balancer.algorithm) == (9, "LEAST_REQUEST")
    assert port.outlier_detection is None
    subset = effective_policy(merged, 80, merged.subset("v1"))
    assert (subset.connection_pool.max_connections, subset.load_balancer.algorithm) == (7, "ROUND_ROBIN")
    assert subset.outlier_detection is not None


# --- VirtualServices


def virtual_service(name: str, namespace: str = "web", hosts: str = HOST, more: str = "", merge: bool = False) -> str:
    annotations = ', annotations: {gossamer.mesh/merge: "true"}' if merge else ""
    return (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        f"metadata: {{name: {name}, namespace: {namespace}{annotations}}}\n"
        f'spec: {{hosts: ["{hosts}"], http: [{{route: [{{destination: {{host: x}}}}]}}]{more}}}\n'
    )


def winners(text: str, namespace: str = "web") -> list[str]:
    objects, _, _ = parse(text)
    return [item.metadata.name for item in chosen(objects, HOST, namespace, SUFFIX)]


def test_oldest_wins() -> None:
    assert winners(virtual_service("first") + virtual_service("second")) == ["first"]


def test_private_before_exported_before_public() -> None:
    public, private = virtual_service("public"), virtual_service("private", more=', exportTo: ["."]')
    named = virtual_service("named", "shop", more=", exportTo: [web]")
    assert winners(public + named + private) == ["private"]
    assert winners(public + named) == ["named"]
    assert winners(public + private, "other") == ["public"]


def test_most_specific_wildcard() -> None:
    wide, narrow = virtual_service("wide", hosts="*.local"), virtual_service("narrow", hosts="*.shop.svc.cluster.local")
    assert winners(wide + narrow) == ["narrow"]
    assert winners(wide + narrow + virtual_service("exact")) == ["exact"]


def test_merge_is_opt_in_on_both() -> None:
    """Decision 4."""
    one, two = virtual_service("one", merge=True), virtual_service("two", merge=True)
    assert winners(one + virtual_service("plain") + two) == ["one", "two"]
    assert winners(virtual_service("plain") + one + two) == ["plain"]


# --- PeerAuthentications


def peers(*specs: tuple[str, str]) -> tuple[PolicyObject, ...]:
    text = "".join(
        f"---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
        f"metadata: {{name: p{index}, namespace: {namespace}}}\nspec: {spec}\n"
        for index, (namespace, spec) in enumerate(specs)
    )
    return tuple(parse(text)[0])


ROOT, NS = "istio-system", "web"
STRICT, PERMISSIVE, DISABLE = MutualTLSMode.STRICT, MutualTLSMode.PERMISSIVE, MutualTLSMode.DISABLE
SELECTED = "selector: {matchLabels: {app: a}}"


@pytest.mark.parametrize(
    ("specs", "mode"),
    [
        ((), PERMISSIVE),
        (((ROOT, "{mtls: {mode: STRICT}}"),), STRICT),
        (((ROOT, "{mtls: {mode: STRICT}}"), (NS, "{mtls: {mode: DISABLE}}")), DISABLE),
        (((ROOT, "{mtls: {mode: STRICT}}"), (NS, "{mtls: {mode: UNSET}}")), STRICT),
        (((NS, "{mtls: {mode: STRICT}}"), (NS, f"{{{SELECTED}, mtls: {{mode: DISABLE}}}}")), DISABLE),
        (((NS, "{mtls: {mode: STRICT}}"), (NS, f"{{{SELECTED}, portLevelMtls: {{80: {{mode: DISABLE}}}}}}")), DISABLE),
        (((NS, "{mtls: {mode: STRICT}}"), (NS, f"{{{SELECTED}, portLevelMtls: {{81: {{mode: DISABLE}}}}}}")), STRICT),
        (((NS, "{mtls: {mode: STRICT}}"), (NS, "{mtls: {mode: DISABLE}}")), STRICT),  # the oldest
        (((ROOT, f"{{{SELECTED}, mtls: {{mode: STRICT}}}}"),), PERMISSIVE),  # a selector in root is ignored
    ],
)
def test_peer_modes(specs: tuple[tuple[str, str], ...], mode: MutualTLSMode) -> None:
    """2.5: mesh < namespace < workload < port."""
    policies = peers(*specs)
    made = PeerPolicies(
        [item for item in policies if item.metadata.namespace == ROOT],
        [item for item in policies if item.metadata.namespace == NS],
        in_root=False,
    )
    assert made.mode({"app": "a"}, 80) is mode

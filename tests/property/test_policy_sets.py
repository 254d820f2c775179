"""Generated policy sets: every snapshot hangs together, and a real Envoy takes it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster

from agent.config.decode import decode_whole
from agent.config.fields import Rejected
from controlplane.compiler.compile import Compiler
from controlplane.model.mesh_state import Changes
from controlplane.model.proxy import Proxy
from controlplane.settings import MeshSettings
from controlplane.snapshot.references import REFERRERS, clusters_named
from controlplane.snapshot.view import View
from mesh.xds import type_url
from tests.support.compiling import mesh_of, proxy_of
from tests.support.golden import MESSAGES
from tests.support.policy_set_guards import EDGE, FETCHED, KEYS
from tests.support.policy_sets import policy_set
from tests.support.static_envoy import TLS_DIR, StaticConfig

SETS = 240
BATCH = 60
ENVOYS = ("envoy-sotw", "envoy-delta", "envoy-plain", "envoy-edge")
AGENTS = ("agent", "agent-edge")
UNVERIFIED = "the agent connects to nobody whom it cannot verify"
ASKER = {"service": "authz/ext-authz", "port": 8000}
SETTINGS = MeshSettings.model_validate({"extension_providers": [{"name": "asker", "envoyExtAuthzHttp": ASKER}]})


def proxies() -> dict[str, Proxy]:
    """One of each dialect and protocol, with certificates and without, in a place that policies name."""
    place = {"region": "r1", "zone": "z1", "subZone": "s1"}
    node = {"id": "proxy", "locality": place, "userAgentName": "envoy"}
    tls = {"TLS_DIR": TLS_DIR}
    return {
        "envoy-sotw": proxy_of({**node, "metadata": tls}, delta=False),
        "envoy-delta": proxy_of({**node, "metadata": tls}),
        "envoy-plain": proxy_of({**node, "metadata": {}}),
        "agent": proxy_of({**node, "userAgentName": "gossamer-agent"}),
        **{
            f"{kind}-edge": replace(
                proxy_of({**node, "id": "edge", "userAgentName": agent, "metadata": AT_THE_EDGE | more}), secrets=True
            )
            for kind, agent, more in (("envoy", "envoy", tls), ("agent", "gossamer-agent", {}))
        },
        "grpc": proxy_of({**node, "userAgentName": "gRPC C-core", "metadata": {"TLS": True}}, delta=False),
    }


AT_THE_EDGE = {"NAMESPACE": "default", "GATEWAY": True, "GATEWAY_ADDRESS": "0.0.0.0", "LABELS": EDGE}


def views(number: int) -> Iterator[tuple[str, View]]:
    mesh, compiler = mesh_of(policy_set(number), settings=SETTINGS), Compiler()
    mesh = mesh.with_changes(Changes(revision=mesh.revision + 1, jwks=((FETCHED, KEYS),)))
    for name, proxy in proxies().items():
        scope = compiler.compile_scope(mesh, mesh.scope_of(proxy))
        yield name, View(mesh.revision, scope, compiler.compile_proxy(mesh, proxy))


@pytest.mark.parametrize("first", range(0, SETS, BATCH))
def test_every_snapshot_hangs_together(first: int) -> None:
    """Each route's cluster exists, each EDS cluster's endpoints exist, no endpoints without their cluster."""
    for number in range(first, first + BATCH):
        for name, view in views(number):
            clusters = {own: Cluster.FromString(item.body) for own, item in view.items(type_url.CLUSTER)}
            wanted = {own for own, item in clusters.items() if item.type == Cluster.EDS}
            given = set(view.names(type_url.CLUSTER_LOAD_ASSIGNMENT))
            assert wanted == given, f"set {number}, {name}"
            for url in REFERRERS:
                for own, item in view.items(url):
                    missing = clusters_named(item) - clusters.keys()
                    assert not missing, f"set {number}, {name}: {own} names {missing}"


@pytest.mark.envoy
@pytest.mark.parametrize("first", range(0, SETS, BATCH))
def test_a_real_envoy_takes_every_snapshot(tmp_path: Path, first: int) -> None:
    """As static resources of few bootstraps, so that it takes seconds; each set by one kind of Envoy in turn."""
    config = StaticConfig(tmp_path)
    for number in range(first, first + BATCH):
        config.add(f"set-{number}", dict(views(number))[ENVOYS[number % len(ENVOYS)]])
    config.validate()


@pytest.mark.parametrize("first", range(0, SETS, BATCH))
def test_an_agent_takes_every_snapshot(first: int) -> None:
    """But for clusters with insecureSkipVerify, of which the policy says that agents refuse them."""
    for number in range(first, first + BATCH):
        made = dict(views(number))
        for name in AGENTS:
            for url in MESSAGES:
                for own, item in made[name].items(url):
                    found = decode_whole(url, own, item.body)
                    refused = isinstance(found, Rejected) and UNVERIFIED not in found.reason
                    assert not refused, f"set {number}, {name}: {found}"


def test_the_sets_are_worth_the_name() -> None:
    """They differ, and together they hold every kind and the fields that make routes and clusters differ."""
    texts = [policy_set(number) for number in range(SETS)]
    assert len(set(texts)) == SETS
    words = Counter(word for text in texts for word in FIELDS if f'{word}"' in text)
    assert set(FIELDS) == words.keys()


FIELDS = (
    "Service", "Instance", "DestinationRule", "VirtualService", "ServiceEntry", "PeerAuthentication",
    "consistentHash", "maglev", "ringHash", "warmup", "distribute", "failover", "retryBudget", "tcpKeepalive",
    "splitExternalLocalOriginErrors", "ISTIO_MUTUAL", "MUTUAL", "SIMPLE", "portLevelSettings", "portLevelMtls",
    "redirect", "directResponse", "rewrite", "uriRegexRewrite", "fault", "corsPolicy", "mirrors", "retries",
    "CircuitBreaker", "Bulkhead", "RequestAuthentication", "AuthorizationPolicy", "Gateway", "Secret",
    "cached", "OUTBOUND", "CUSTOM", "AUDIT", "dry-run", "targetRefs", "requestPrincipals", "PASSTHROUGH",
    "httpsRedirect", "OPTIONAL_MUTUAL", "sniHosts", "RateLimit", "failureMode", "enforceAt", "claim", "REMOTE_ADDRESS",
    "withoutHeaders", "queryParams", "regex", "headers", "timeout", "grpcStatus", "http2KeepAlive",
)  # fmt: skip

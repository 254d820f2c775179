"""Secrets of the user's by SDS: who is given them, what a change of them builds, and what is said when they lack."""

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from controlplane.compiler.compile import Compiler
from controlplane.compiler.types import Condition
from controlplane.discovery.agent_desk import AgentDesk
from controlplane.discovery.client_status import ClientStatuses
from controlplane.discovery.delta import DeltaSession
from controlplane.discovery.response import Response
from controlplane.distribution.ledger import Connection, DistributionLedger
from controlplane.distribution.stream_sync import Sent, Span, StreamSync
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.model.proxy import Proxy
from controlplane.model.rollout_rules import unstageable
from controlplane.snapshot.cache import SnapshotCache
from controlplane.snapshot.references import secrets_named
from mesh.vocabulary import Locality
from mesh.xds.type_url import CLUSTER, CLUSTER_LOAD_ASSIGNMENT, SECRET, VIRTUAL_HOST
from tests.support.compiling import agent, fold, mesh_of, parse, proxy_of
from tests.support.secrets import (
    CERTIFICATE,
    CLIENT,
    KEY,
    NEXT_KEY,
    PRIVATE,
    ROOTS,
    RULE,
    SERVICE_ENTRY,
    encoded,
    tls_secret,
)

DOCUMENTS = (SERVICE_ENTRY, RULE, tls_secret())
NAME = "outbound|80||outside.example.com"


def envoy(namespace: str = "default", *, secrets: bool = True, delta: bool = True) -> Proxy:
    found = proxy_of({"id": "e", "userAgentName": "envoy", "metadata": {"NAMESPACE": namespace}}, delta=delta)
    return replace(found, secrets=secrets)


def given(mesh: MeshState, proxy: Proxy, compiler: Compiler | None = None) -> dict[str, Secret]:
    compiled = (compiler or Compiler()).compile_scope(mesh, mesh.scope_of(proxy))
    return {name: Secret.FromString(item.body) for name, item in compiled.resources.get(SECRET, {}).items()}


def conditions(mesh: MeshState, *proxies: Proxy) -> list[Condition]:
    compiler = Compiler()
    for proxy in proxies:
        compiler.compile_scope(mesh, mesh.scope_of(proxy))
    return [item for item in compiler.conditions(mesh) if not item.message.startswith("Gossamer agents")]


def test_envoys_of_the_namespace_are_given_what_their_clusters_name() -> None:
    mesh = mesh_of(*DOCUMENTS, tls_secret("unused"))
    found = given(mesh, envoy())
    assert found.keys() == {CLIENT, ROOTS}
    assert found[CLIENT].tls_certificate.private_key.inline_string == KEY
    assert found[CLIENT].tls_certificate.certificate_chain.inline_string == CERTIFICATE
    assert found[ROOTS].validation_context.trusted_ca.inline_string == CERTIFICATE
    compiled = Compiler().compile_scope(mesh, mesh.scope_of(envoy())).resources
    assert secrets_named(compiled[CLUSTER][NAME]) == {CLIENT, ROOTS}
    assert str(compiled[SECRET][CLIENT].sources[0].ref) == "Secret default/client"
    assert conditions(mesh, envoy()) == []


@pytest.mark.parametrize(
    "proxy", [envoy("other"), envoy(secrets=False), agent()], ids=["another-namespace", "not-shown", "an-agent"]
)
def test_all_others_get_neither_secrets_nor_endpoints(proxy: Proxy) -> None:
    mesh = mesh_of(*DOCUMENTS)
    compiled = Compiler().compile_scope(mesh, mesh.scope_of(proxy)).resources
    assert SECRET not in compiled
    assert secrets_named(compiled[CLUSTER][NAME]) == set(), "it would wait for what never comes"
    assert Cluster.FromString(compiled[CLUSTER][NAME].body).transport_socket.name == "envoy.transport_sockets.tls"
    assert b"10.1.0.1" not in compiled[CLUSTER_LOAD_ASSIGNMENT][NAME].body


def test_envoys_without_the_right_are_named_in_a_condition() -> None:
    (found,) = conditions(mesh_of(*DOCUMENTS), envoy(), envoy("other"))
    assert (found.type, found.reason, str(found.ref)) == (
        "NotEnforced",
        "SecretNotGiven",
        "DestinationRule default/outside",
    )
    assert "Envoys of namespace other get no endpoints of outside.example.com" in found.message


def test_a_change_of_a_secret_builds_that_resource_and_nothing_else() -> None:
    compiler, mesh = Compiler(), mesh_of(*DOCUMENTS)
    given(mesh, envoy(), compiler)
    before, clusters = compiler.builds.copy(), compiler.compile_scope(mesh, mesh.scope_of(envoy())).resources[CLUSTER]
    mesh = fold(mesh, tls_secret(key=NEXT_KEY, generation=2))
    assert given(mesh, envoy(), compiler)[CLIENT].tls_certificate.private_key.inline_string == NEXT_KEY
    assert compiler.compile_scope(mesh, mesh.scope_of(envoy())).resources[CLUSTER] is clusters
    # The roots come from the same object, so they name its new generation; their bytes are the same.
    assert compiler.builds - before == {"Secret": 2}


def test_only_the_streams_that_use_it_hear_of_a_secret() -> None:
    mesh = mesh_of(*DOCUMENTS)
    cache = SnapshotCache(Compiler(), mesh)
    cache.connect(1, envoy())
    cache.connect(2, envoy("other"))
    cache.advance(fold(mesh, tls_secret(key=NEXT_KEY, generation=2)))
    assert [update.stream for update in cache.refresh()] == [1]


def test_what_is_missing_is_said_and_comes_when_it_is_there() -> None:
    compiler, mesh = Compiler(), mesh_of(SERVICE_ENTRY, RULE)
    assert given(mesh, envoy(), compiler) == {}
    (found,) = conditions(mesh, envoy())
    assert (found.type, found.code) == ("ReferencedResourceNotFound", "IST0101")
    assert "there is no Secret client in namespace default" in found.message
    data = f"data: {{ca.crt: {encoded(CERTIFICATE)}}}"
    mesh = fold(mesh, f"apiVersion: v1\nkind: Secret\nmetadata: {{name: client}}\n{data}")
    assert given(mesh, envoy(), compiler).keys() == {ROOTS}
    (found,) = conditions(mesh, envoy())
    assert "the Secret client in namespace default holds no tls.crt and tls.key, or cert and key" in found.message
    mesh = fold(mesh, tls_secret(generation=2))
    assert given(mesh, envoy(), compiler).keys() == {CLIENT, ROOTS}
    gone = parse(tls_secret())[0][0].ref
    mesh = mesh.with_changes(Changes(revision=mesh.revision + 1, deleted_objects=(gone,)))
    assert given(mesh, envoy(), compiler) == {}


def test_roots_of_a_secret_of_their_own_come_first() -> None:
    own = tls_secret("client-cacert", roots=CERTIFICATE * 2)
    found = given(mesh_of(*DOCUMENTS, own), envoy())
    assert found[ROOTS].validation_context.trusted_ca.inline_string == CERTIFICATE * 2


def test_no_repr_holds_a_key() -> None:
    (item,) = parse(tls_secret())[0]
    assert PRIVATE[0] not in f"{item!r} {item.spec!r} {item}"
    assert item.ref.name == "client"


def test_a_rollout_takes_no_secret() -> None:
    (item,) = parse(tls_secret())[0]
    ((field, message),) = unstageable(item, None)
    assert field == "kind"
    assert "expected another kind" in message


async def test_csds_shows_no_content_of_a_users_secret() -> None:
    """The port without TLS serves CSDS too."""
    mesh: Any = mesh_of(*DOCUMENTS)
    cache, ledger = SnapshotCache(Compiler(), mesh), DistributionLedger()
    view, proxy = cache.connect(1, envoy()), envoy()
    sync = ledger.connect(
        Connection(
            stream=1, node="e", dialect=proxy.dialect, user_agent="envoy", address="a", namespace="default",
            locality=Locality(), delta=True, connected_since=0.0,
        )
    )  # fmt: skip
    for url in (SECRET, CLUSTER):
        resources = dict(view.items(url))
        sync.sent(url, url, Sent(Span(0, 1), resources, frozenset(resources)))
        sync.ack(url, url)
    (config,) = await ClientStatuses(ledger, lambda: cache, AgentDesk()).of(lambda _: True, contents=True)
    shown = {entry.name: bool(entry.xds_config.value) for entry in config.generic_xds_configs}
    assert shown == {CLIENT: False, ROOTS: False, NAME: True}


def test_routes_wait_for_the_secrets_of_a_new_rule() -> None:
    """Make before break: the routes to a cluster go when its Secrets are acknowledged too (decision 20)."""
    view = SnapshotCache(Compiler(), mesh_of(*DOCUMENTS)).connect(1, envoy())
    session = DeltaSession(view, StreamSync())

    def say(url: str, *names: str, nonce: str = "") -> dict[str, Response]:
        request = DeltaDiscoveryRequest(type_url=url, resource_names_subscribe=names, response_nonce=nonce)
        return {response.type_url: response for response in session.on_request(request, 0.0)}

    clusters = say(CLUSTER)[CLUSTER]
    endpoints = say(CLUSTER_LOAD_ASSIGNMENT, NAME)[CLUSTER_LOAD_ASSIGNMENT]
    say(VIRTUAL_HOST)
    say(CLUSTER, nonce=clusters.nonce)
    say(CLUSTER_LOAD_ASSIGNMENT, nonce=endpoints.nonce)
    held = session.sync.of(VIRTUAL_HOST).held
    assert {item.waits_for for item in held.values()} <= {f"SDS {CLIENT}", f"SDS {ROOTS}"}
    assert any("outside.example.com" in name for name in held)
    secrets = say(SECRET, CLIENT, ROOTS)[SECRET]
    assert {resource.name for resource in secrets.resources} == {CLIENT, ROOTS}
    released = say(SECRET, nonce=secrets.nonce)[VIRTUAL_HOST]
    assert any("outside.example.com" in resource.name for resource in released.resources)

"""The ADS port with client certificates: who may say that it is which node, and which workloads it may bring."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.identity import authority, channels
from agent.identity.keys import make_keys
from agent.identity.vault import Identity
from agent.settings import ControlPlaneSettings
from controlplane.discovery.permission import permitted
from controlplane.registry.codec import decode_instance, decode_node
from controlplane.registry.instances import Instance
from controlplane.store.keys import INSTANCES, node_key
from controlplane.store.memory import MemoryStore
from mesh.identity import join_token
from mesh.xds import type_url
from tests.support.ads import Ads, RawStream, node, served, until
from tests.support.authorities import TRUST_DOMAIN, ServedAuthority, ShiftedClock
from tests.support.compiling import instance, mesh_of
from tests.support.secrets import CLIENT, PRIVATE, ROOTS, RULE, SERVICE_ENTRY, tls_secret

MEMBER = f"spiffe://{TRUST_DOMAIN}/node/node-1"
WORKLOAD = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/billing"


def workload(service: str, **fields: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 3005, "protocol": "HTTP", "inbound_port": 20000}]
    return {"id": f"{service}-1", "service": service, "service_account": service, "ports": ports, **fields}


class Port:
    """The mTLS port, and certificates of node-1, which may run billing in default and nothing else."""

    def __init__(self, authority: ServedAuthority, clock: ShiftedClock) -> None:
        self.authority = authority
        self.ads = Ads(mesh_of(), clock=clock, store=authority.store)
        handlers = (self.ads.service.handler(authenticated=True),)
        authority.services.append(lambda server: server.add_generic_rpc_handlers(handlers))
        self.channels: list[grpc.aio.Channel] = []

    async def join(self) -> None:
        settings = ControlPlaneSettings(address=self.authority.mtls, join_address=self.authority.tls)
        held = join_token.parse(await self.authority.token(service_accounts=["billing"]), "token")
        signed = await authority.join(settings, "node-1", held, await make_keys([MEMBER, WORKLOAD]))
        self.identities = {item.spiffe_id: item for item in signed.identities}
        self.trust_pem = signed.trust_pem

    def stream(self, who: Any, identity: str = MEMBER) -> RawStream:
        shown: Identity = self.identities[identity]
        channel = channels.mtls(self.authority.mtls, "gossamer-controlplane", shown, self.trust_pem)
        self.channels.append(channel)
        return RawStream(channel, who, delta=True)

    async def instances(self) -> dict[str, Instance]:
        entries = (await self.ads.store.list(INSTANCES)).entries
        return {item.id: item for item in (decode_instance(entry.value) for entry in entries)}


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    clock = ShiftedClock()
    served = await ServedAuthority.open(tmp_path / "ca", MemoryStore(clock=clock))
    port = Port(served, clock)
    await served.start()
    await port.join()
    yield port
    for channel in port.channels:
        await channel.close()
    await served.stop()


async def test_the_node_of_the_certificate_is_served(port: Port) -> None:
    stream = port.stream(node("node-1"))
    await stream.send(type_url=type_url.CLUSTER)
    assert (await stream.take()).type_url == type_url.CLUSTER
    assert [item.node for item in port.ads.ledger.proxies()] == ["node-1"]


@pytest.mark.parametrize(
    ("who", "identity", "message"),
    [
        ("node-2", MEMBER, "found 'node-2', but the client certificate names node 'node-1'"),
        ("node-1", WORKLOAD, "expected a node's identity"),
    ],
    ids=["another-node", "a-workload"],
)
async def test_another_identity_is_refused(port: Port, who: str, identity: str, message: str) -> None:
    """Decision 13: node.id is the certificate's, or the stream ends PERMISSION_DENIED."""
    stream = port.stream(node(who), identity)
    await stream.send(type_url=type_url.CLUSTER)
    code, details = await stream.end()
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert message in details
    assert port.ads.ledger.proxies() == ()


async def test_a_bare_envoys_workloads_are_instances_as_far_as_its_grant_goes(port: Port) -> None:
    """Decision 15: they stand in its node metadata; decision 13: what the token did not name is left out."""
    brought = [workload("billing"), workload("payroll"), workload("billing", id="b2", namespace="other")]
    stream = port.stream(node("node-1", "envoy", TLS_DIR="/tls", OUTBOUND_PORT=15001, WORKLOADS=brought))
    await stream.send(type_url=type_url.CLUSTER)
    await stream.take()
    store = port.ads.store

    for _ in range(1000):
        if await port.instances():
            break
        await asyncio.sleep(0.005)
    assert set(await port.instances()) == {"billing-1"}
    found = (await port.instances())["billing-1"]
    assert (found.node, found.service_account, found.agent) == ("node-1", "billing", True)
    entry = await store.get(node_key("node-1"))
    assert entry is not None
    record = decode_node(entry.value)
    assert (record.dialect, record.address, record.outbound_port) == ("envoy", "10.0.0.1", 15001)
    # They leave with the stream's lease.
    stream.cancel()
    await until("gone", lambda: port.ads.ledger.proxies() == ())
    port.authority.store._clock.shift_s += 16.0  # type: ignore[attr-defined]
    assert await port.instances() == {}


def test_without_a_grant_nothing_is_permitted() -> None:
    allowed, problems = permitted(None, "node-1", [instance("a")])
    assert allowed == []
    assert problems == ["instance a: node node-1 may not run namespace default, service account user-service"]


@pytest.mark.parametrize(
    ("namespace", "account", "names"),
    [("default", "billing", {CLIENT, ROOTS}), ("default", "payroll", set()), ("other", "billing", set())],
    ids=["granted", "another-account", "another-namespace"],
)
async def test_secrets_are_for_whom_the_grant_names(
    port: Port, namespace: str, account: str, names: set[str]
) -> None:  # fmt: skip
    """A node says itself in which namespace it is; its join token says whether it may."""
    port.ads.publish(mesh_of(*_secrets(namespace)))
    stream = port.stream(node("node-1", "envoy", NAMESPACE=namespace, SERVICE_ACCOUNT=account))
    await stream.send(type_url=type_url.SECRET, resource_names_subscribe=[CLIENT, ROOTS])
    assert {item.name for item in (await stream.take()).resources} == names


@pytest.mark.parametrize(("gateway", "names"), [(True, {CLIENT}), (False, set())], ids=["gateway", "workloads"])
async def test_an_agent_gets_secrets_as_a_gateway(port: Port, gateway: bool, names: set[str]) -> None:
    server = (
        "{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: client}}"
    )
    text = (
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\n"
        f"spec: {{selector: {{istio: edge}}, servers: [{server}]}}\n"
    )
    port.ads.publish(mesh_of(text, tls_secret()))
    said = {"GATEWAY": gateway, "LABELS": {"istio": "edge"}, "SERVICE_ACCOUNT": "billing"}
    stream = port.stream(node("node-1", "gossamer-agent", **said))
    await stream.send(type_url=type_url.SECRET, resource_names_subscribe=[CLIENT, ROOTS])
    assert {item.name for item in (await stream.take()).resources} == names


def _secrets(namespace: str) -> list[str]:
    texts = (RULE, tls_secret())
    return [SERVICE_ENTRY, *(text.replace("metadata: {", f"metadata: {{namespace: {namespace}, ") for text in texts)]


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
async def test_no_secret_leaves_the_port_without_tls(delta: bool) -> None:
    async with served(Ads(mesh_of(SERVICE_ENTRY, RULE, tls_secret()))) as ads:
        stream = ads.stream(node("node-1", "envoy"), delta=delta)
        names = "resource_names_subscribe" if delta else "resource_names"
        await stream.send(type_url=type_url.SECRET, **{names: [CLIENT, ROOTS]})
        await stream.send(type_url=type_url.CLUSTER)
        found = await stream.take()
        while found.type_url != type_url.CLUSTER:
            assert not found.resources
            found = await stream.take()
        assert len(found.resources) == 1
        assert not [data for data in stream.raw if PRIVATE[0].encode() in data]

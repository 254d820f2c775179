"""What the entries of the store become, and what happens to those that cannot be read."""

import json

import pytest

from controlplane.policy.objects import encode
from controlplane.reconcile.changes import ChangeReader, Gathered
from controlplane.registry.codec import encode_ejection, encode_instance, encode_node
from controlplane.registry.instances import Ejection, Node
from controlplane.store import keys
from controlplane.store.protocol import Entry
from mesh.vocabulary import ObjectRef
from tests.support.compiling import instance, policy_object

VS = ObjectRef("networking.istio.io", "VirtualService", "default", "a")
VS_KEY = keys.ObjectKey("networking.istio.io", "virtualservices", "default", "a").object_key()
EJECTION = Ejection(
    cluster="outbound|80||a.default.svc.cluster.local", endpoint="10.0.0.1:20000", node="node-2",
    reason="consecutive_5xx", detail="", times=1, since_ms=1, until_ms=2, enforced=True,
)  # fmt: skip


def virtual_service(name: str = "a", weight: int = 1) -> bytes:
    route = {"route": [{"destination": {"host": "a"}, "weight": weight}]}
    return encode(
        policy_object(
            {
                "apiVersion": "networking.istio.io/v1",
                "kind": "VirtualService",
                "metadata": {"name": name},
                "spec": {"hosts": ["a"], "http": [route]},
            }
        )
    )


def entry(key: str, value: bytes, revision: int = 2) -> Entry:
    return Entry(key, value, revision, revision)


def read(reader: ChangeReader, *puts: Entry, deletes: tuple[str, ...] = ()) -> Gathered:
    gathered = Gathered()
    reader.put(puts, gathered)
    reader.delete(deletes, gathered)
    return gathered


def test_every_prefix_becomes_its_typed_change() -> None:
    workload, node = instance("i-1"), Node(name="node-1", address="10.0.0.1")
    gathered = read(
        ChangeReader(),
        entry(VS_KEY, virtual_service()),
        entry(keys.instance_key("default", "node-1", "i-1"), encode_instance(workload)),
        entry(keys.node_key("node-1"), encode_node(node)),
        entry(keys.ejection_key(EJECTION.cluster, EJECTION.endpoint, EJECTION.node), encode_ejection(EJECTION)),
    )
    changes = gathered.as_changes(7)
    assert (changes.revision, [item.ref for item in changes.objects]) == (7, [VS])
    assert (changes.instances, changes.nodes, changes.ejections) == ((workload,), (node,), (EJECTION,))


def test_of_a_root_only_the_certificate_is_read() -> None:
    reader, key = ChangeReader(), keys.ca_root_key("r1")
    stored = json.dumps({"certificatePem": "-----BEGIN CERTIFICATE-----x", "sealedKey": "secret"}).encode()
    gathered = read(reader, entry(key, stored))
    assert gathered
    assert gathered.as_changes(1).roots == (("r1", "-----BEGIN CERTIFICATE-----x"),)
    assert read(reader, deletes=(key,)).as_changes(2).deleted_roots == ("r1",)


def test_deletions_name_what_is_gone() -> None:
    reader = ChangeReader()
    deletes = (
        VS_KEY,
        keys.instance_key("default", "node-1", "i-1"),
        keys.node_key("node-1"),
        keys.ejection_key(EJECTION.cluster, EJECTION.endpoint, EJECTION.node),
    )
    changes = read(reader, deletes=deletes).as_changes(3)
    assert changes.deleted_objects == (VS,)
    assert changes.deleted_instances == (("default", "node-1", "i-1"),)
    assert changes.deleted_nodes == ("node-1",)
    assert changes.deleted_ejections == ((EJECTION.cluster, EJECTION.endpoint, EJECTION.node),)


@pytest.mark.parametrize(
    "key",
    [
        keys.SCHEMA,
        keys.token_key("t"),
        keys.apply_key("01"),
        keys.grant_key("n"),
        keys.CA_SIGNER,
        keys.ObjectKey("networking.istio.io", "virtualservices", "default", "a").status_key("cp-1"),
    ],
)
def test_other_keys_are_passed_over(key: str) -> None:
    reader = ChangeReader()
    assert not read(reader, entry(key, b"{"), deletes=(key,))
    assert reader.unreadable == {}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (VS_KEY, b"{", "expected a stored object"),
        (VS_KEY, virtual_service("other"), "as the key says"),
        (keys.OBJECTS + "example.com/things/default/a", b"{}", "which this version does not know"),
        (keys.instance_key("default", "node-1", "i-1"), b"[]", "expected an object"),
        (keys.instance_key("default", "node-9", "i-1"), encode_instance(instance("i-1")), "as the key says"),
        (keys.node_key("node-1"), b"{}", "found no name"),
        (keys.node_key("node-2"), encode_node(Node(name="node-1", address="a")), "as the key says"),
        (keys.ejection_key("c", "e", "n"), b"null", "expected an object"),
        (keys.INSTANCES + "default/node-1", b"{}", "expected three"),
        (keys.ca_root_key("r1"), b"[]", "expected a root of the CA"),
        (keys.ca_root_key("r1"), b'{"certificatePem": 7}', "expected a root of the CA"),
    ],
)
def test_an_unreadable_value_is_remembered_with_its_reason(key: str, value: bytes, reason: str) -> None:
    reader = ChangeReader()
    read(reader, entry(key, value))
    assert reason in reader.unreadable[key]
    read(reader, deletes=(key,))
    assert reader.unreadable == {}


def test_an_unreadable_value_takes_its_predecessor_out_and_is_forgotten_when_written_again() -> None:
    reader = ChangeReader()
    read(reader, entry(VS_KEY, virtual_service()))
    assert read(reader, entry(VS_KEY, b"{")).as_changes(3).deleted_objects == (VS,)
    assert reader.unreadable_objects().keys() == {VS}
    assert [item.ref for item in read(reader, entry(VS_KEY, virtual_service())).as_changes(4).objects] == [VS]
    assert reader.unreadable_objects() == {}


def test_what_comes_again_as_it_was_is_no_change() -> None:
    reader = ChangeReader()
    assert read(reader, entry(VS_KEY, virtual_service()))
    assert not read(reader, entry(VS_KEY, virtual_service(), revision=9))
    assert read(reader, entry(VS_KEY, virtual_service(weight=2), revision=10))


def test_replicas_are_kept_apart_from_the_mesh() -> None:
    reader = ChangeReader()
    value = json.dumps({"rest": "10.0.0.1:8080", "startedAt": 5}).encode()
    assert not read(reader, entry(keys.replica_key("cp-1"), value))
    assert (reader.replicas["cp-1"].rest, reader.replicas["cp-1"].started_at) == ("10.0.0.1:8080", 5)
    read(reader, deletes=(keys.replica_key("cp-1"),))
    assert reader.replicas == {}
    read(reader, entry(keys.replica_key("cp-2"), b"{}"))
    assert keys.replica_key("cp-2") in reader.unreadable

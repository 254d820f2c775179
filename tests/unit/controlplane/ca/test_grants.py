"""What a joined node may claim."""

import pytest

from controlplane.ca.grants import NodeGrant, decode_grant, grant_of, grants, require_workload, revoke_node
from controlplane.store.keys import grant_key
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Entry, Put
from mesh.errors import ErrorCode, MeshError
from mesh.identity.spiffe import SpiffeId

GRANT = NodeGrant(
    node="node-1",
    namespaces=("shop", "web"),
    service_accounts=("orders",),
    token_id="0123",
    joined_ms=1_790_000_000_000,
)


@pytest.mark.parametrize(
    ("uri", "permitted"),
    [
        ("spiffe://td/node/node-1", True),
        ("spiffe://td/node/node-2", False),
        ("spiffe://td/ns/shop/sa/orders", True),
        ("spiffe://td/ns/web/sa/orders", True),
        ("spiffe://td/ns/shop/sa/users", False),
        ("spiffe://td/ns/prod/sa/orders", False),
        ("spiffe://other/node/node-1", False),
        ("spiffe://other/ns/shop/sa/orders", False),
        ("spiffe://td", False),
        ("spiffe://td/node/node-1/x", False),
        ("spiffe://td/ns/shop/sa/orders/x", False),
    ],
)
def test_which_identities_a_node_may_have(uri: str, permitted: bool) -> None:
    assert GRANT.permits(SpiffeId.parse(uri), "td") is permitted


def test_a_star_is_any() -> None:
    anything = NodeGrant(node="n", namespaces=("*",), service_accounts=("*",))
    assert anything.permits_workload("any", "thing")
    assert not NodeGrant(node="n", namespaces=("*",), service_accounts=()).permits_workload("any", "thing")


async def test_a_grant_is_stored_listed_and_revoked() -> None:
    store = MemoryStore()
    assert await grant_of(store, "node-1") is None
    await store.transact([], [Put(grant_key("node-1"), GRANT.encode())])
    assert await grant_of(store, "node-1") == GRANT
    assert await grants(store) == (GRANT,)
    await revoke_node(store, "node-1")
    await revoke_node(store, "node-1")
    assert await grants(store) == ()


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b"7", GRANT.encode().replace(b"1790000000000", b'"soon"')])
def test_a_damaged_grant_is_named(value: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        decode_grant(Entry(grant_key("node-1"), value, 1, 1))
    assert caught.value.code is ErrorCode.UNREADABLE
    assert caught.value.subject == grant_key("node-1")


def test_a_workload_that_is_not_granted_is_refused_with_what_is() -> None:
    require_workload(GRANT, "node-1", "shop", "orders")
    for grant, words in ((GRANT, "granted: shop,web / orders"), (None, "granted: no grant")):
        with pytest.raises(MeshError) as caught:
            require_workload(grant, "node-1", "prod", "orders")
        assert caught.value.code is ErrorCode.PERMISSION_DENIED
        assert words in str(caught.value)

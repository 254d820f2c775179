"""TLS to hosts: which certificate is shown, whom we talk to, new identities. Source: decisions 10 and 39."""

import ssl
from dataclasses import replace

import pytest

from agent.model.cluster import TransportSocket
from agent.model.tls import DownstreamTls, UpstreamTls
from agent.stats import names
from agent.upstream.pool import Pool
from agent.upstream.tls import TlsContexts, TlsError, peer_allowed, peer_id
from tests.support.identities import TestAuthority
from tests.support.upstream import ClusterUnderTest, Request, on_both_loops, peer, until

CALLER = "spiffe://cluster.local/ns/default/sa/caller"
SERVICE = "spiffe://cluster.local/ns/default/sa/service"
OTHER = "spiffe://cluster.local/ns/default/sa/other"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def contexts(authority: TestAuthority, *identities: str) -> TlsContexts:
    made = TlsContexts()
    made.replace(tuple(map(authority.issue, identities)), authority.trust_pem)
    return made


def server_context(authority: TestAuthority, *, identity: str = SERVICE) -> ssl.SSLContext:
    """Shows `identity`, asks for a certificate of the same authority."""
    return contexts(authority, identity).server(DownstreamTls(identity=identity))


def pool_of(under_test: ClusterUnderTest, identity: str = CALLER) -> Pool:
    host = under_test.cluster.pick_host()
    assert host is not None
    return under_test.cluster.pool(host, identity)


async def connected(pool: Pool) -> Request:
    request = Request()
    assert pool.wait(request, 0)
    await until(lambda: request.connection or request.failure)
    return request


@on_both_loops
async def test_both_sides_show_who_they_are() -> None:
    authority = TestAuthority()
    async with peer(server_context(authority)) as server:
        under_test = ClusterUnderTest(
            [server.endpoint], contexts=contexts(authority, CALLER), transport_sockets=(mesh_socket(),)
        )  # fmt: skip
        pool = pool_of(under_test)
        request = await connected(pool)
        assert request.connection is not None
        assert request.connection.peer == SERVICE
        request.connection.start(request, b"GET", GET)
        connection = await server.connection()
        assert await connection.request() == b"GET / HTTP/1.1"
        connection.answer(b"secret")
        await until(lambda: request.connection is None)
        assert request.body == b"secret"
        assert under_test.counts[names.SSL_HANDSHAKE] == 1
        pool.close()


def mesh_socket(*peers: str) -> TransportSocket:
    return TransportSocket(name="mesh", tls=UpstreamTls(peer_ids=frozenset(peers or (SERVICE,))))


@on_both_loops
async def test_a_host_with_another_name_is_refused_before_a_byte_is_sent() -> None:
    authority = TestAuthority()
    async with peer(server_context(authority, identity=OTHER)) as server:
        under_test = ClusterUnderTest(
            [server.endpoint], contexts=contexts(authority, CALLER), transport_sockets=(mesh_socket(),)
        )  # fmt: skip
        pool = pool_of(under_test)
        request = await connected(pool)
        assert request.failure == (
            "remote_connection_failure",
            f"TLS_error:_the_peer_shows_{OTHER},_expected_{SERVICE}",
        )
        assert under_test.counts[names.SSL_FAIL_VERIFY_SAN] == 1
        await until(lambda: pool.empty)
        for connection in server.connections:  # the reset can come before the server's side of the handshake is done
            assert await connection.ended()


@on_both_loops
async def test_a_host_of_another_authority_is_refused() -> None:
    async with peer(server_context(TestAuthority())) as server:
        under_test = ClusterUnderTest(
            [server.endpoint], contexts=contexts(TestAuthority(), CALLER), transport_sockets=(mesh_socket(),)
        )  # fmt: skip
        pool = pool_of(under_test)
        request = await connected(pool)
        assert request.failure is not None
        reason, cause = request.failure
        assert reason == "remote_connection_failure"
        assert "CERTIFICATE_VERIFY_FAILED" in cause
        assert under_test.counts[names.SSL_CONNECTION_ERROR] == 1
        await until(lambda: pool.empty)


@on_both_loops
async def test_a_caller_without_a_certificate_is_told_so() -> None:
    """The connection is not even tried with another identity."""
    authority = TestAuthority()
    async with peer(server_context(authority)) as server:
        under_test = ClusterUnderTest(
            [server.endpoint], contexts=contexts(authority, CALLER), transport_sockets=(mesh_socket(),)
        )  # fmt: skip
        request = await connected(pool_of(under_test, OTHER))
        assert request.failure == (
            "remote_connection_failure",
            f"TLS_error:_no_certificate_for_{OTHER}_is_held_here",
        )
        assert server.connections == []


@on_both_loops
async def test_a_host_that_never_shakes_hands_is_given_up() -> None:
    """connect_timeout covers TLS."""
    authority = TestAuthority()
    async with peer() as server:
        under_test = ClusterUnderTest(
            [server.endpoint],
            contexts=contexts(authority, CALLER),
            transport_sockets=(mesh_socket(),),
            connect_timeout_s=0.05,
        )
        pool = pool_of(under_test)
        request = await connected(pool)
        assert request.failure == ("connection_timeout", "")
        assert under_test.counts[names.CX_CONNECT_TIMEOUT] == 1
        await until(lambda: pool.empty)


def test_new_identities_are_used_at_once() -> None:
    """Contexts are cached until the supervisor sends new certificates."""
    authority = TestAuthority()
    held = contexts(authority, CALLER)
    first = held.client(UpstreamTls(), CALLER)
    assert held.client(UpstreamTls(), CALLER) is first
    held.replace((authority.issue(CALLER),), authority.trust_pem)
    assert held.client(UpstreamTls(), CALLER) is not first


def test_contexts_differ_by_identity_and_trust() -> None:
    authority = TestAuthority()
    held = contexts(authority, CALLER, OTHER)
    mesh = held.client(UpstreamTls(), CALLER)
    assert held.client(UpstreamTls(), OTHER) is not mesh
    assert held.client(UpstreamTls(identity=CALLER), OTHER) is mesh, "a fixed identity is nobody's but its own"
    pem = TestAuthority().trust_pem.decode()
    assert held.client(UpstreamTls(trust=pem), CALLER) is not mesh
    assert held.client(UpstreamTls(identity="", trust="system"), CALLER).get_ca_certs() is not None


def test_what_cannot_be_used_is_named() -> None:
    authority = TestAuthority()
    with pytest.raises(TlsError, match="no trust roots are held here"):
        TlsContexts().client(UpstreamTls(identity=""), "")
    with pytest.raises(TlsError, match="no certificate for spiffe://nobody is held here"):
        contexts(authority).server(DownstreamTls(identity="spiffe://nobody"))
    with pytest.raises(TlsError, match="the trust roots cannot be used"):
        contexts(authority).client(UpstreamTls(identity="", trust="no PEM"), "")


def test_only_a_listener_may_do_without_the_clients_certificate() -> None:
    authority = TestAuthority()
    held = contexts(authority, SERVICE)
    strict = held.server(DownstreamTls(identity=SERVICE))
    open_to_all = held.server(DownstreamTls(identity=SERVICE, require_client_certificate=False))
    assert (strict.verify_mode, open_to_all.verify_mode) == (ssl.CERT_REQUIRED, ssl.CERT_NONE)
    assert held.client(UpstreamTls(), SERVICE).verify_mode == ssl.CERT_REQUIRED


def test_who_may_come() -> None:
    """One of the expected names is enough, of either kind; no name is expected = any that chains."""
    nobody: frozenset[str] = frozenset()
    assert peer_allowed(nobody, nobody, nobody)
    assert peer_allowed(frozenset({SERVICE, OTHER}), nobody, frozenset({SERVICE}))
    assert not peer_allowed(frozenset({OTHER}), nobody, frozenset({SERVICE}))
    assert peer_allowed(nobody, frozenset({"a.example"}), frozenset({SERVICE}), frozenset({"a.example"}))
    assert not peer_allowed(nobody, frozenset({SERVICE}), frozenset({SERVICE})), "a DNS name is no URI"


def test_a_peer_has_one_spiffe_id_or_none() -> None:
    assert peer_id(frozenset({SERVICE})) == SERVICE
    assert peer_id(frozenset({SERVICE, OTHER})) == ""
    assert peer_id(frozenset({"https://x"})) == ""


# --- secrets of the user's


def user_contexts(authority: TestAuthority, *hosts: str) -> TlsContexts:
    pair = replace(authority.issue("spiffe://outside/server", *hosts), identity="kubernetes://own")
    made = TlsContexts()
    made.replace((pair,), b"", (("kubernetes://own-cacert", authority.trust_pem),))
    return made


def test_a_users_certificate_and_roots() -> None:
    """They are found by the names of their secrets; of others it is said what is not there."""
    made = user_contexts(TestAuthority())
    asking = DownstreamTls(secret="kubernetes://own", trust_secret="kubernetes://own-cacert")
    assert made.server(asking).verify_mode is ssl.CERT_REQUIRED
    optional = replace(asking, require_client_certificate=False, ask_client_certificate=True)
    assert made.server(optional).verify_mode is ssl.CERT_OPTIONAL
    nobody = DownstreamTls(secret="kubernetes://own", require_client_certificate=False)
    assert made.server(nobody).verify_mode is ssl.CERT_NONE
    with pytest.raises(TlsError, match="no certificate for kubernetes://other is held here"):
        made.server(replace(asking, secret="kubernetes://other"))
    with pytest.raises(TlsError, match="no trust roots kubernetes://other are held here"):
        made.server(replace(asking, trust_secret="kubernetes://other"))


def test_a_new_certificate_is_for_new_contexts() -> None:
    authority = TestAuthority()
    made = user_contexts(authority)
    tls = DownstreamTls(secret="kubernetes://own", require_client_certificate=False)
    before = made.server(tls)
    assert made.server(tls) is before
    made.replace((replace(authority.issue("spiffe://outside/new"), identity="kubernetes://own"),), b"")
    assert made.server(tls) is not before


def test_versions_and_ciphers() -> None:
    made = user_contexts(TestAuthority())
    least = DownstreamTls(secret="kubernetes://own", require_client_certificate=False)
    found = made.server(replace(least, min_version="1.3", ciphers=("ECDHE-ECDSA-AES256-GCM-SHA384",)))
    assert found.minimum_version is ssl.TLSVersion.TLSv1_3
    older = made.server(replace(least, max_version="1.2", ciphers=("ECDHE-ECDSA-AES256-GCM-SHA384",)))
    assert older.maximum_version is ssl.TLSVersion.TLSv1_2
    named = [cipher["name"] for cipher in older.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
    assert named == ["ECDHE-ECDSA-AES256-GCM-SHA384"]
    with pytest.raises(TlsError, match="the ciphers NONSENSE cannot be used"):
        made.server(replace(least, ciphers=("NONSENSE",)))

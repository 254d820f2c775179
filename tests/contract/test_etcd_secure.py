"""An etcd that is not the embedded one: TLS both ways, users, several endpoints, none at all."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.ca.authority import Authority, create_root
from controlplane.store.embedded import EmbeddedEtcd
from controlplane.store.etcd.binary import find_binary
from controlplane.store.etcd.options import EtcdOptions
from controlplane.store.etcd.store import EtcdStore
from controlplane.store.protocol import Put
from mesh.errors import ErrorCode, MeshError
from mesh.identity.spiffe import node_id
from mesh.secret import Secret
from tests.contract.conftest import take, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.etcd]

PASSWORD = "correct horse"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class SecureEtcd:
    """An etcd with TLS, client certificates and a user who may only touch /gossamer/."""

    options: EtcdOptions
    folder: Path


def write_certificates(folder: Path) -> None:
    authority = Authority(root := create_root("etcd.test", time.time()), [root.certificate], trust_domain="etcd.test")
    (folder / "ca.pem").write_bytes(authority.root_pem)
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        issued = (
            authority.issue_server(key.public_key(), (), time.time())
            if name == "server"
            else authority.issue_identity(key.public_key(), node_id("etcd.test", "client"), time.time())
        )
        (folder / f"{name}.pem").write_bytes(issued.chain_pem)
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureEtcd]:
    folder = tmp_path_factory.mktemp("secure")
    write_certificates(folder)
    process, url = await start_etcd(folder)
    try:
        await asyncio.to_thread(make_users, folder, url)
        options = EtcdOptions(
            endpoints=(url,),
            ca_file=folder / "ca.pem",
            cert_file=folder / "client.pem",
            key_file=folder / "client.key",
            user="mesh",
            password=Secret(PASSWORD),
        )
        yield SecureEtcd(options, folder)
    finally:
        process.kill()
        await process.wait()


async def start_etcd(folder: Path) -> tuple[asyncio.subprocess.Process, str]:
    """The process and its URL. A port that somebody else took first makes way for another one."""
    for _ in range(5):
        port = free_port()
        url = f"https://127.0.0.1:{port}"
        with (folder / "etcd.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(str(find_binary()), f"--data-dir={folder / 'data'}", "--name=s"),
                *(f"--listen-client-urls={url}", f"--advertise-client-urls={url}"),
                *("--listen-peer-urls=http://127.0.0.1:0", "--initial-advertise-peer-urls=http://127.0.0.1:2380"),
                *("--initial-cluster=s=http://127.0.0.1:2380", "--client-cert-auth"),
                *(f"--cert-file={folder / 'server.pem'}", f"--key-file={folder / 'server.key'}"),
                *(f"--trusted-ca-file={folder / 'ca.pem'}", "--auth-token-ttl=1"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await until(lambda process=process, port=port: process.returncode is not None or accepts(port))  # type: ignore[misc]
        if process.returncode is None:
            return process, url
    raise AssertionError((folder / "etcd.log").read_text()[-2000:])


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def make_users(folder: Path, url: str) -> None:
    """Make the users with etcd's own tool, then switch authentication on."""
    beside = find_binary().parent / "etcdctl"
    etcdctl = str(beside) if beside.exists() else shutil.which("etcdctl")
    assert etcdctl is not None, "etcdctl comes with etcd: install it beside"
    files = ("ca.pem", "client.pem", "client.key")
    access = [f"--{flag}={folder / file}" for flag, file in zip(("cacert", "cert", "key"), files, strict=True)]
    for command in (
        ("user", "add", f"root:{PASSWORD}"),
        ("user", "grant-role", "root", "root"),
        ("user", "add", f"mesh:{PASSWORD}"),
        ("role", "add", "mesh"),
        ("role", "grant-permission", "mesh", "--prefix=true", "readwrite", "/gossamer/"),
        ("user", "grant-role", "mesh", "mesh"),
        ("auth", "enable"),
    ):
        subprocess.run(
            [etcdctl, f"--endpoints={url}", "--dial-timeout=10s", *access, *command], check=True, capture_output=True
        )


async def test_reads_and_writes_with_certificate_and_password(secure: SecureEtcd) -> None:
    store = EtcdStore(secure.options)
    assert (await store.transact([], [Put("/gossamer/a", b"1")])).succeeded
    entry = await store.get("/gossamer/a")
    assert entry is not None
    assert entry.value == b"1"
    await store.close()


async def test_an_expired_token_is_replaced_without_anybody_noticing(secure: SecureEtcd) -> None:
    store = EtcdStore(secure.options)
    watch = aiter(store.watch("/gossamer/token/"))
    await take(watch)
    await store.transact([], [Put("/gossamer/token/1", b"1")])
    await take(watch)
    await asyncio.sleep(3.5)  # the token's time to live is a second; etcd looks every second
    await asyncio.gather(*(store.transact([], [Put(f"/gossamer/token/{i}", b"2")]) for i in range(2, 6)))
    seen: set[str] = set()
    while len(seen) < 4:
        seen |= {entry.key for entry in (await take(watch)).puts}
    await watch.aclose()  # type: ignore[attr-defined]
    fresh = aiter(store.watch("/gossamer/token/"))
    assert len((await take(fresh)).puts) == 5
    await fresh.aclose()  # type: ignore[attr-defined]
    await store.close()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"password": Secret("wrong")}, ErrorCode.UNAUTHENTICATED, "--etcd-password-file"),
        ({"user": ""}, ErrorCode.PERMISSION_DENIED, "--etcd-user"),
        ({"cert_file": None, "key_file": None, "timeout_s": 1.0}, ErrorCode.UNAVAILABLE, "cannot reach etcd"),
        ({"ca_file": None, "timeout_s": 1.0}, ErrorCode.UNAVAILABLE, "cannot reach etcd"),
    ],
)
async def test_wrong_credentials_name_the_remedy(
    secure: SecureEtcd, change: dict[str, object], code: ErrorCode, words: str
) -> None:
    store = EtcdStore(replace(secure.options, **change))  # type: ignore[arg-type]
    with pytest.raises(MeshError) as failure:
        await store.get("/gossamer/a")
    assert failure.value.code is code
    assert words in str(failure.value)
    assert PASSWORD not in str(failure.value)
    await store.close()


async def test_keys_that_the_user_may_not_touch(secure: SecureEtcd) -> None:
    store = EtcdStore(secure.options)
    with pytest.raises(MeshError) as failure:
        await store.transact([], [Put("/elsewhere", b"1")])
    assert failure.value.code is ErrorCode.PERMISSION_DENIED
    await store.close()


async def test_a_dead_endpoint_is_passed_over(etcd: EmbeddedEtcd) -> None:
    dead = f"127.0.0.1:{free_port()}"
    store = EtcdStore(replace(etcd.client_options(), endpoints=(dead, f"http://localhost:{etcd.endpoint[10:]}")))
    assert (await store.transact([], [Put("/failover", b"1")])).succeeded
    assert await store.check()
    await store.close()


async def test_no_etcd_at_all_is_one_line_with_the_remedy() -> None:
    store = EtcdStore(EtcdOptions(endpoints=(f"127.0.0.1:{free_port()}",), timeout_s=0.5))
    with pytest.raises(MeshError) as failure:
        await store.get("/a")
    assert failure.value.code is ErrorCode.UNAVAILABLE
    assert str(failure.value).endswith("(start one there or use --embedded-etcd DIR)")
    assert "\n" not in str(failure.value)
    assert not store.healthy
    await store.close()

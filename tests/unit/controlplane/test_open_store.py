"""How the etcd of the settings is reached."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from controlplane.open_store import etcd_options, open_store
from controlplane.settings import Settings
from controlplane.store.keys import SCHEMA
from mesh.errors import ErrorCode, MeshError


def test_a_cluster_with_everything(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    found = etcd_options(
        Settings(
            etcd="a:1, https://b:2,,", etcd_ca="/ca", etcd_cert="/cert", etcd_key="/key", etcd_user="mesh",
            etcd_password_file=str(password), etcd_max_txn_ops=64, etcd_max_request_bytes=1_000_000,
        )
    )  # fmt: skip
    assert found.endpoints == ("a:1", "https://b:2")
    assert (found.ca_file, found.cert_file, found.key_file) == (Path("/ca"), Path("/cert"), Path("/key"))
    assert (found.user, found.password.reveal()) == ("mesh", "s3cret")
    assert "s3cret" not in repr(found)
    assert found.limits.max_ops == 64


def test_a_cluster_with_the_least() -> None:
    found = etcd_options(Settings(etcd="a:1"))
    assert (found.ca_file, found.cert_file, found.key_file, found.user) == (None, None, None, "")
    assert not found.uses_tls


def test_a_password_that_cannot_be_read_is_a_bad_setting(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="cannot read") as caught:
        etcd_options(Settings(etcd="a:1", etcd_password_file=str(tmp_path / "none")))
    assert (caught.value.code, caught.value.subject) == (ErrorCode.SETTINGS, "etcd_password_file")


@pytest.mark.etcd
async def test_a_store_of_our_own_is_open_with_its_schema_and_ends_with_the_stack(tmp_path: Path) -> None:
    settings = Settings(embedded_etcd=str(tmp_path / "etcd"))
    async with AsyncExitStack() as stack:
        opened = await open_store(settings, stack)
        assert opened.endpoints
        listing = await opened.store.list("/gossamer/")
        assert [entry.key for entry in listing.entries] == [SCHEMA]
    async with AsyncExitStack() as stack:  # its folder is free again
        assert (await open_store(settings, stack)).endpoints

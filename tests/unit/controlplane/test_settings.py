"""The control plane's settings: precedence, every wrong value named, nothing bound before they are right."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controlplane.settings import MeshSettings, Settings, is_loopback, load, split_address
from mesh.errors import ErrorCode, MeshError

ETCD = {"etcd": "127.0.0.1:2379"}


def test_the_least_that_must_be_said_gets_every_default() -> None:
    found = load(flags=ETCD)
    assert (found.rest, found.grpc_mtls, found.grpc_tls) == ("127.0.0.1:8080", "127.0.0.1:18000", "127.0.0.1:18001")
    assert (found.xds_plaintext, found.api_token_file, found.embedded_etcd) == ("", "", "")
    assert found.mesh == MeshSettings.model_validate(
        {"trust_domain": "cluster.local", "root_namespace": "istio-system", "domain_suffix": "svc.cluster.local"}
    )
    assert not found.mesh.compat_istio


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults() -> None:
    found = load(
        file={
            "etcd": "file:1",
            "drain_s": 1,
            "log_level": "error",
            "mesh": {"trust_domain": "file", "domain_suffix": "f"},
        },
        environ={"GOSSAMER_ETCD": "env:1", "GOSSAMER_DRAIN_S": "2", "GOSSAMER_MESH_TRUST_DOMAIN": "env", "HOME": "/"},
        flags={"etcd": "flag:1"},
    )
    assert (found.etcd, found.drain_s, found.log_level) == ("flag:1", 2.0, "error")
    assert (found.mesh.trust_domain, found.mesh.domain_suffix) == ("env", "f")
    assert found.mesh.root_namespace == "istio-system"


def test_values_from_the_environment_are_read_as_what_they_mean() -> None:
    environ = {"GOSSAMER_ETCD_MAX_TXN_OPS": "512", "GOSSAMER_LOG_JSON": "true", "GOSSAMER_MESH_COMPAT_ISTIO": "1"}
    found = load(environ=environ, flags=ETCD)
    assert (found.etcd_max_txn_ops, found.log_json, found.mesh.compat_istio) == (512, True, True)


def test_variables_of_other_parts_are_not_ours() -> None:
    environ = {"GOSSAMER_AGENT_PROXY_WORKERS": "2", "GOSSAMER_TOKEN": "x", "GOSSAMER_SERVER": "y"}
    assert load(environ=environ, flags=ETCD) == load(flags=ETCD)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"rset": "x"}, "rset", "did you mean rest?"),
    ({"etcd-ca": "x"}, "etcd-ca", "did you mean etcd_ca?"),
    ({"zzzzz": 1}, "zzzzz", "known: state_dir"),
    ({"mesh": {"trust_domian": "x"}}, "mesh.trust_domian", "did you mean mesh.trust_domain?"),
    ({"mesh": []}, "mesh", "expected a mapping"),
    ({"mesh": None}, "mesh", "expected a mapping"),
    ({"mesh": {"trust_domain": "Example Org"}}, "mesh.trust_domain", "lower-case letters"),
    ({"mesh": {"trust_domain": ""}}, "mesh.trust_domain", "lower-case letters"),
    ({"mesh": {"trust_domain": "a/b"}}, "mesh.trust_domain", "expected no '/'"),
    ({"mesh": {"root_namespace": "Root"}}, "mesh.root_namespace", "found 'Root'"),
    ({"mesh": {"domain_suffix": ".local"}}, "mesh.domain_suffix", "found '.local'"),
    ({"mesh": {"compat_istio": "perhaps"}}, "mesh.compat_istio", "found 'perhaps'"),
    ({"state_dir": ""}, "state_dir", "at least 1 character"),
    ({"state_dir": 7}, "state_dir", "found 7"),
    ({"rest": 8080}, "rest", "found 8080"),
    ({"rest": "8080"}, "rest", "expected host:port"),
    ({"rest": "127.0.0.1:"}, "rest", "expected host:port"),
    ({"rest": "127.0.0.1:65536"}, "rest", "expected host:port"),
    ({"rest": "127.0.0.1:\u0661"}, "rest", "expected host:port"),
    ({"rest": ""}, "rest", "found nothing"),
    ({"rest": "0.0.0.0:8080"}, "rest", "give --api-token-file FILE, or bind 127.0.0.1"),
    ({"rest": "gossamer.example:8080"}, "rest", "other machines can reach"),
    ({"rest": "[::]:8080"}, "rest", "other machines can reach"),
    ({"grpc_mtls": "10.0.0.1:18000"}, "grpc_mtls", "no api_token_file"),
    ({"grpc_tls": "10.0.0.1:18001"}, "grpc_tls", "no api_token_file"),
    ({"grpc_mtls": "nonsense"}, "grpc_mtls", "found 'nonsense', expected host:port"),
    ({"xds_plaintext": "0.0.0.0:15010"}, "xds_plaintext", "plaintext xDS has no authentication"),
    ({"xds_plaintext": "10.0.0.1:1", "api_token_file": "t"}, "xds_plaintext", "use the mTLS port"),
    ({"xds_plaintext": "x"}, "xds_plaintext", "expected host:port"),
    ({"embedded_etcd": "dir"}, "etcd", "both --etcd and --embedded-etcd"),
    ({"etcd": ""}, "etcd", "neither --etcd nor --embedded-etcd"),
    ({"etcd_cert": "c.pem"}, "etcd_cert", "give both or none"),
    ({"etcd_key": "k.pem"}, "etcd_cert", "give both or none"),
    ({"etcd_max_txn_ops": -1}, "etcd_max_txn_ops", "greater than or equal to 0"),
    ({"etcd_max_txn_ops": "many"}, "etcd_max_txn_ops", "found 'many'"),
    ({"log_level": "loud"}, "log_level", "'debug', 'info'"),
    ({"log_json": "perhaps"}, "log_json", "found 'perhaps'"),
    ({"admission_per_s": 0}, "admission_per_s", "greater than 0"),
    ({"send_timeout_s": -1}, "send_timeout_s", "greater than 0"),
    ({"registration_wait_s": 61}, "registration_wait_s", "less than or equal to 60"),
    ({"drain_s": 10}, "drain_s", "less than or equal to 9"),
    ({"drain_s": "long"}, "drain_s", "found 'long'"),
]


@pytest.mark.parametrize(("values", "subject", "words"), BAD, ids=[f"{i}-{s}" for i, (_, s, _) in enumerate(BAD)])
def test_what_is_wrong_is_named_with_the_remedy(values: dict[str, Any], subject: str, words: str) -> None:
    with pytest.raises(MeshError) as caught:
        load(file={**ETCD, **values}, file_name="cp.yaml")
    assert caught.value.code is ErrorCode.SETTINGS
    assert caught.value.subject == subject
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "words"), [("file", "in cp.yaml"), ("environ", "in the environment"), ("flags", "in the flags")]
)
def test_an_unknown_key_says_where_it_stands(layer: str, words: str) -> None:
    bad = {"GOSSAMER_ETCDD": "x"} if layer == "environ" else {"etcdd": "x"}
    arguments: dict[str, Any] = {
        "file": ETCD,
        "file_name": "cp.yaml",
        layer: {**(ETCD if layer == "file" else {}), **bad},
    }
    with pytest.raises(MeshError) as caught:
        load(**arguments)
    assert words in str(caught.value)
    assert "did you mean etcd?" in str(caught.value)


@pytest.mark.parametrize("seconds", [9, 31_536_001, "a day"])
def test_a_certificate_lives_at_least_ten_seconds_and_at_most_a_year(seconds: object) -> None:
    with pytest.raises(MeshError, match="certificate_ttl_s"):
        load(file={**ETCD, "certificate_ttl_s": seconds})
    assert load(file={**ETCD, "certificate_ttl_s": 3600}).certificate_ttl_s == 3600


def test_with_api_tokens_other_addresses_may_be_bound() -> None:
    open_to_all = {"rest": "0.0.0.0:8080", "grpc_mtls": "[::]:18000", "grpc_tls": "10.0.0.1:18001"}
    found = load(flags={**ETCD, **open_to_all, "api_token_file": "tokens"})
    assert (found.rest, found.grpc_mtls) == ("0.0.0.0:8080", "[::]:18000")


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        *(("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("localhost:1", True)),
        *(("0.0.0.0:1", False), ("[::]:1", False), ("10.0.0.1:1", False), ("example.org:1", False)),
    ],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_addresses_are_split() -> None:
    assert split_address("[2001:db8::1]:80") == ("2001:db8::1", 80)
    assert split_address("host:0") == ("host", 0)


def test_every_setting_says_what_it_is() -> None:
    for model in (Settings, MeshSettings):
        assert [name for name, field in model.model_fields.items() if name != "mesh" and not field.description] == []


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "controlplane", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("GOSSAMER_")},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ectd", "a:1"], "did you mean --etcd?"),
        (["--rest", "0.0.0.0:0"], "no api_token_file"),
        (["--config", "CP.YAML"], "did you mean rest?"),
        (["--config", "/nowhere/cp.yaml"], "cannot read /nowhere/cp.yaml"),
        (["--drain-s", "long"], "drain_s"),
    ],
)
def test_wrong_settings_exit_64_and_touch_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    path = tmp_path / "cp.yaml"
    path.write_text("rset: 127.0.0.1:0\n")
    state, data = tmp_path / "state", tmp_path / "etcd"
    ended = run(
        *("--state-dir", str(state), "--embedded-etcd", str(data)),
        *(str(path) if word == "CP.YAML" else word for word in arguments),
    )
    assert ended.returncode == 64
    assert words in ended.stderr
    assert not state.exists(), "nothing was written, so nothing was bound"
    assert not data.exists()

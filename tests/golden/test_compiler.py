"""What is compiled from the golden cases, and whether a real Envoy takes it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.compiler.transport_sockets import SYSTEM_ROOTS
from mesh.vocabulary import Dialect
from mesh.xds import type_url
from tests.support.certificates import key_pem, self_signed
from tests.support.envoys import envoy_binary
from tests.support.golden import CONDITIONS, FILES, Case, cases, plain

CASES = cases()
INPUTS = frozenset({"input.yaml", "proxy.yaml"})
HTTP_MANAGER = "envoy.filters.network.http_connection_manager"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_compiled(case: Case, update_golden: bool) -> None:
    """Every output is as its file says, and every file has its output."""
    outputs = dict(case.outputs())
    if update_golden:
        for file in {*FILES, CONDITIONS} - outputs.keys():
            (case.path / file).unlink(missing_ok=True)
        for file, text in outputs.items():
            (case.path / file).write_text(text)
    found = {path.name: path.read_text() for path in case.path.iterdir() if path.name not in INPUTS}
    assert found.keys() == outputs.keys(), "golden files and outputs differ; see --update-golden"
    for file, text in outputs.items():
        assert found[file].splitlines() == text.splitlines(), f"{case.name}/{file} reads otherwise"


def test_every_dialect_and_protocol_has_a_case() -> None:
    """The cases cover what can attach."""
    seen = {(case.proxy.dialect, case.proxy.delta) for case in CASES}
    assert seen >= {(Dialect.GOSSAMER, True), (Dialect.ENVOY, True), (Dialect.ENVOY, False), (Dialect.GRPC, False)}


@pytest.mark.envoy
def test_real_envoy_accepts_every_case(tmp_path: Path) -> None:
    """One bootstrap of all that is compiled for Envoys, as static resources, passes Envoy's own validation."""
    tls_dir = _tls_dir(tmp_path)
    listeners: list[Any] = []
    clusters: list[Any] = []
    for case in CASES:
        if case.proxy.dialect is Dialect.ENVOY:
            own_listeners, own_clusters = _static(case, tls_dir)
            listeners += own_listeners
            clusters += own_clusters
    for index, listener in enumerate(listeners):
        listener["address"]["socket_address"]["port_value"] = 20000 + index
    bootstrap = tmp_path / "bootstrap.json"
    runtime = {"layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 32768}}]}
    static = {"listeners": listeners, "clusters": clusters}
    node = {"id": "golden", "cluster": "golden"}
    bootstrap.write_text(json.dumps({"node": node, "static_resources": static, "layered_runtime": runtime}))
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", str(bootstrap), "--log-level", "warning"],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Deprecated field" not in done.stderr, done.stderr
    assert len(listeners) > 5
    assert len(clusters) > 10


def _tls_dir(folder: Path) -> str:
    """The files that an Envoy of the mesh has."""
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "cert.pem").write_bytes(self_signed(key))
    (folder / "key.pem").write_bytes(key_pem(key))
    certificate, private = {"filename": f"{folder}/cert.pem"}, {"filename": f"{folder}/key.pem"}
    secrets = {
        "identity.yaml": {
            "name": "default",
            "tls_certificate": {"certificate_chain": certificate, "private_key": private},
        },
        "roots.yaml": {"name": "ROOTCA", "validation_context": {"trusted_ca": certificate}},
    }
    for file, secret in secrets.items():
        (folder / file).write_text(json.dumps({"resources": [{"@type": type_url.SECRET, **secret}]}))
    return str(folder)


def _static(case: Case, tls_dir: str) -> tuple[list[Any], list[Any]]:
    """The case's listeners with their routes inline, and its clusters with their endpoints inline."""
    view, _ = case.compiled
    endpoints = {name: plain(item) for name, item in view.items(type_url.CLUSTER_LOAD_ASSIGNMENT)}
    hosts = [plain(item) for _, item in sorted(view.items(type_url.VIRTUAL_HOST))]
    routes = {name: plain(item) for name, item in view.items(type_url.ROUTE_CONFIGURATION)}
    for name, message in routes.items():
        if message.pop("vhds", None):
            message["virtual_hosts"] = [host for host in hosts if host["name"].startswith(f"{name}/")]
    clusters = [plain(item) for _, item in view.items(type_url.CLUSTER)]
    for cluster in clusters:
        if cluster.get("type") == "EDS":
            cluster["type"] = "STATIC"
            cluster["load_assignment"] = endpoints[cluster["name"]]
            del cluster["eds_cluster_config"]
    listeners = [_with_routes(plain(item), routes) for _, item in view.items(type_url.LISTENER)]
    text = json.dumps([listeners, clusters]).replace(SYSTEM_ROOTS, f"{tls_dir}/cert.pem")
    text = text.replace(case.proxy.tls_dir or "/nowhere", tls_dir)
    # Clusters of several cases stand side by side.
    for direction in ("inbound|", "outbound|"):
        text = text.replace(f'"{direction}', f'"{case.name}~{direction}')
    found = json.loads(text)
    for listener in found[0]:
        listener["name"] = f"{case.name}~{listener['name']}"
    return found[0], found[1]


def _with_routes(listener: dict[str, Any], routes: dict[str, Any]) -> dict[str, Any]:
    for chain in listener["filter_chains"]:
        for network_filter in chain["filters"]:
            if network_filter["name"] == HTTP_MANAGER:
                config = network_filter["typed_config"]
                rds = config.pop("rds", None)
                if rds is not None:
                    config["route_config"] = routes[rds["route_config_name"]]
    return listener

"""What is compiled for an Envoy as static resources, and Envoy's own validation of it (`--mode validate`)."""

import json
import subprocess
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.compiler.transport_sockets import SYSTEM_ROOTS
from controlplane.snapshot.view import View
from mesh.xds import type_url
from mesh.xds.names import CONTROL_PLANE_CLUSTER, TRUST_SECRET
from tests.support.certificates import key_pem, self_signed
from tests.support.envoys import envoy_binary
from tests.support.golden import plain

HTTP_MANAGER = "envoy.filters.network.http_connection_manager"
# Of a bootstrap: filters that call the control plane are refused without it.
_CONTROL_PLANE = {"name": CONTROL_PLANE_CLUSTER, "type": "STATIC", "connect_timeout": "5s"}
TLS_DIR = "/gossamer-tls"  # what proxies of static configurations name as theirs


class StaticConfig:
    """Listeners and clusters of many proxies, side by side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tls_dir = _tls_dir(folder)
        self.listeners: list[Any] = []
        self.clusters: list[Any] = []

    def add(self, name: str, view: View, tls_dir: str = TLS_DIR) -> None:
        """A proxy's view; `name` keeps its resources apart from others', `tls_dir` is the one that it named."""
        listeners, clusters = _static(view)
        text = json.dumps([listeners, clusters]).replace(SYSTEM_ROOTS, f"{self._tls_dir}/cert.pem")
        text = text.replace(tls_dir or "/nowhere", self._tls_dir)
        for direction in ("inbound|", "outbound|"):
            text = text.replace(f'"{direction}', f'"{name}~{direction}')
        listeners, clusters = json.loads(text, object_hook=self._from_file)
        for listener in listeners:
            listener["name"] = f"{name}~{listener['name']}"
            listener["address"]["socket_address"]["port_value"] = 1024 + len(self.listeners)
            self.listeners.append(listener)
        self.clusters += clusters

    def _from_file(self, found: dict[str, Any]) -> dict[str, Any]:
        """Secrets over ADS end the validation of Envoy 1.40 with a segmentation fault: their files instead."""
        if "ads" not in found.get("sds_config", {}):
            return found
        roots = found["name"] == TRUST_SECRET or found["name"].endswith("-cacert")
        file, name = ("roots.yaml", "ROOTCA") if roots else ("identity.yaml", "default")
        path = {"path": f"{self._tls_dir}/{file}"}
        return {"name": name, "sds_config": {"path_config_source": path, "resource_api_version": "V3"}}

    def validate(self) -> None:
        """A real Envoy takes all of it, and nothing in it is deprecated."""
        bootstrap = self._folder / "bootstrap.json"
        runtime = {"layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 32768}}]}
        static = {"listeners": self.listeners, "clusters": [*self.clusters, _CONTROL_PLANE]}
        node = {"id": "static", "cluster": "static"}
        bootstrap.write_text(json.dumps({"node": node, "static_resources": static, "layered_runtime": runtime}))
        done = subprocess.run(
            [envoy_binary(), "--mode", "validate", "-c", str(bootstrap), "--log-level", "warning"],
            capture_output=True, text=True, timeout=110, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Deprecated field" not in done.stderr, done.stderr


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


def _static(view: View) -> tuple[list[Any], list[Any]]:
    """The view's listeners with their routes inline, and its clusters with their endpoints inline."""
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
    return [_with_routes(plain(item), routes) for _, item in view.items(type_url.LISTENER)], clusters


def _with_routes(listener: dict[str, Any], routes: dict[str, Any]) -> dict[str, Any]:
    for chain in listener["filter_chains"]:
        for network_filter in chain["filters"]:
            if network_filter["name"] == HTTP_MANAGER:
                config = network_filter["typed_config"]
                rds = config.pop("rds", None)
                if rds is not None:
                    config["route_config"] = routes[rds["route_config_name"]]
    return listener

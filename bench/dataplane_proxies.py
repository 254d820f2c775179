"""The processes of `make bench-dataplane`: control plane, origins, agents, Envoys, and peers that are installed.

Owns:   starting and pinning them; which processes serve a scenario, and where.
Not:    what is asked of them (dataplane_scenarios), the policies (dataplane_policies).

Load generator, origins and control plane share core HELPERS; a proxy of one worker has core PROXY. Proxies of two
workers have two cores of their own where there are three, else all.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.dataplane_scenarios import Scenario
from controlplane.cli.local_mesh import LocalAgent, LocalMesh, LocalService, Process
from tests.support import envoys

ROOT = Path(__file__).parents[1]
COMPILED = ROOT / "build" / "compiled"
HELPERS, PROXY = 0, 1  # cores
ORIGIN = 9
PEERS = {"haproxy": 12, "nginx": 13}
DIRECT = "no proxy"
# Else connections that are open stay with the listener, and the policies, that they began with for ten minutes.
_DRAIN_SOON = ("--drain-time-s", "2", "--drain-strategy", "immediate")


@dataclass(frozen=True)
class Addresses:
    """Where the proxies of one kind are: the last byte of their addresses."""

    inbound: int
    outbound: int
    two_workers: int


ADDRESSES = {"envoy": Addresses(3, 5, 8), "agent": Addresses(2, 4, 10), "compiled": Addresses(6, 7, 11)}


@dataclass(frozen=True)
class Candidate:
    """`pids`: the processes that serve `authorities` at `address`; `logs`: the access logs that they write."""

    name: str
    address: str
    authorities: tuple[str, ...]
    pids: tuple[int, ...] = ()
    logs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Proxy:
    """One started proxy, its workers and helpers included."""

    pid: int
    address: str
    log: Path

    @property
    def pids(self) -> tuple[int, ...]:
        return machine.tree_pids(self.pid)


def builds_of(wanted: str) -> tuple[str, ...]:
    """The builds of the agent to be measured. Exits when the compiled one is wanted and not there."""
    there = (COMPILED / "agent").is_dir()
    if wanted in ("compiled", "both") and not there:
        raise SystemExit(f"{COMPILED} is not there: run make build first")
    return {"pure": ("agent",), "compiled": ("compiled",)}.get(wanted, ("agent", "compiled") if there else ("agent",))


def cores_of(workers: int) -> tuple[int, ...]:
    """The cores of a proxy with so many workers."""
    if workers == 1:
        return (PROXY,)
    count = os.cpu_count() or 2
    return tuple(range(PROXY, PROXY + workers)) if count > workers else tuple(range(count))


class BenchMesh(LocalMesh):
    """Agents named `compiled-*` are of the compiled build, other processes of the source tree."""

    def spawn(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
        tree = COMPILED if name.startswith("compiled") else ROOT
        return super().spawn(name, command, env={**(env or {}), "PYTHONPATH": str(tree)})


class Proxies:
    """All that was started for a run."""

    def __init__(self, mesh: LocalMesh, builds: Sequence[str]) -> None:
        self.mesh = mesh
        self.kinds = ("envoy", *builds)
        self.origin = f"{mesh.address(ORIGIN)}:9000"
        self.origins: list[int] = []
        self.missing: list[str] = []  # peers that are not installed
        self._inbound: dict[str, Proxy] = {}
        self._outbound: dict[tuple[str, int], Proxy] = {}
        self._peers: dict[str, Proxy] = {}

    def start_control_plane(self) -> None:
        """The control plane; policies can be posted from here on."""
        machine.pin(self.mesh.start_control_plane().pid, HELPERS)

    def start(self, scenarios: Sequence[Scenario]) -> None:
        """The origins, and the proxies that these scenarios need."""
        self._start_origin(ORIGIN)
        if any(scenario.way == "mesh" for scenario in scenarios):
            for kind in self.kinds:
                self._start_origin(ADDRESSES[kind].inbound)
                self._inbound[kind] = self._start_inbound(kind)
        for workers in sorted({scenario.workers for scenario in scenarios}):
            for kind in self.kinds:
                self._outbound[kind, workers] = self._start_outbound(kind, workers)
        if any(scenario.peers for scenario in scenarios):
            self._start_peers()

    def of(self, scenario: Scenario) -> list[Candidate]:
        """Who takes part, Envoy first."""
        candidates = [self._candidate(kind, scenario) for kind in self.kinds]
        if scenario.peers:
            for name, peer in self._peers.items():
                candidates.append(Candidate(name, peer.address, scenario.authorities, peer.pids, (peer.log,)))
        if scenario.direct:
            candidates.append(Candidate(DIRECT, self.origin, scenario.authorities))
        return candidates

    def idle_mib(self) -> dict[str, float]:
        """The memory of each outbound proxy of one worker."""
        return {kind: machine.pss_mib(*self._outbound[kind, 1].pids) for kind in self.kinds if self._has_one(kind)}

    def _has_one(self, kind: str) -> bool:
        return (kind, 1) in self._outbound

    def _candidate(self, kind: str, scenario: Scenario) -> Candidate:
        outbound = self._outbound[kind, scenario.workers]
        if scenario.way == "outbound":
            return Candidate(kind, outbound.address, scenario.authorities, outbound.pids, (outbound.log,))
        inbound = self._inbound[kind]
        pids, logs = (*outbound.pids, *inbound.pids), (outbound.log, inbound.log)
        return Candidate(kind, outbound.address, (f"by-{kind}",), pids, logs)

    def _start_origin(self, number: int) -> None:
        address = self.mesh.address(number)
        process = self.mesh.spawn(f"origin-{number}", [sys.executable, "-m", "bench.origin", address, "9000"])
        machine.pin(process.pid, HELPERS)
        self.origins.append(process.pid)

    def _start_inbound(self, kind: str) -> Proxy:
        number = ADDRESSES[kind].inbound
        if kind == "envoy":
            workload = "name=by-envoy,namespace=default,service-account=by-envoy,port=9000"
            workload += f",address={self.mesh.address(number)},inbound-port=20000,labels.app=by-envoy"
            process = envoys.start_envoy(self.mesh, "envoy-in", number, workload, flags=_DRAIN_SOON)
            return self._pinned(Proxy(process.pid, "", process.log), 1)
        service = LocalService(name=f"by-{kind}", port=9000, check=False)
        return self._of_agent(self.mesh.start_agent(f"{kind}-in", number, (service,), proxy={"workers": 1}), 1)

    def _start_outbound(self, kind: str, workers: int) -> Proxy:
        at = ADDRESSES[kind]
        number = at.outbound if workers == 1 else at.two_workers
        name = f"{kind}-out-{workers}"
        if kind == "envoy":
            process = envoys.start_envoy(self.mesh, name, number, concurrency=workers)
            return self._pinned(Proxy(process.pid, f"{self.mesh.address(number)}:15001", process.log), workers)
        return self._of_agent(self.mesh.start_agent(name, number, proxy={"workers": workers}), workers)

    def _of_agent(self, agent: LocalAgent, workers: int) -> Proxy:
        return self._pinned(Proxy(agent.process.pid, agent.outbound, agent.state_dir / "access.log"), workers)

    def _pinned(self, proxy: Proxy, workers: int) -> Proxy:
        machine.pin(proxy.pid, *cores_of(workers))
        return proxy

    def _start_peers(self) -> None:
        for name, number in PEERS.items():
            binary = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
            if binary is None:
                self.missing.append(name)
                continue
            folder, address = self.mesh.root / name, f"{self.mesh.address(number)}:15001"
            folder.mkdir()
            config = folder / f"{name}.conf"
            config.write_text(
                {"haproxy": _HAPROXY, "nginx": _NGINX}[name] % {"address": address, "origin": self.origin}
            )
            command = {"haproxy": ["-db", "-f", str(config)], "nginx": ["-p", str(folder), "-c", str(config)]}[name]
            process = self.mesh.spawn(name, [binary, *command])
            log = folder / "access.log" if name == "nginx" else process.log
            self._peers[name] = self._pinned(Proxy(process.pid, address, log), 1)


# One worker, kept connections to the origin, retries, a log line in JSON: as near as they come to the mesh's policies.
_HAPROXY = """\
global
  nbthread 1
  maxconn 8000
  log stdout format raw local0
defaults
  mode http
  log global
  timeout connect 5s
  timeout client 300s
  timeout server 15s
  retries 2
  retry-on conn-failure 500 502 503 504
  option redispatch
  unique-id-format %%[uuid()]
  unique-id-header x-request-id
  log-format '{"start_time":"%%t","method":%%{+Q}HM,"path":%%{+Q}HU,"protocol":%%{+Q}HV,"response_code":%%ST,\
"bytes_sent":%%B,"bytes_received":%%U,"duration":%%Ta,"upstream_service_time":%%Tr,"connect":%%Tc,"flags":"%%tsc",\
"authority":"%%[var(txn.host)]","user_agent":"%%[var(txn.agent)]","request_id":"%%ID","upstream_host":"%%si:%%sp",\
"upstream_cluster":"%%b","downstream_local_address":"%%fi:%%fp","downstream_remote_address":"%%ci:%%cp",\
"retries":%%rc,"connections":%%ac}'
frontend in
  bind %(address)s
  http-request set-var(txn.host) req.hdr(host)
  http-request set-var(txn.agent) req.hdr(user-agent)
  default_backend origin
backend origin
  http-reuse always
  server origin %(origin)s maxconn 4000 observe layer7 error-limit 5 on-error mark-down check inter 10s
"""
_NGINX = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 16000;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 8000; }
http {
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  log_format json escape=json '{"start_time":"$time_iso8601","method":"$request_method","path":"$request_uri",'
    '"protocol":"$server_protocol","response_code":$status,"bytes_sent":$body_bytes_sent,"bytes_received":$request_length,'
    '"duration":$request_time,"upstream_service_time":"$upstream_response_time","connect":"$upstream_connect_time",'
    '"authority":"$host","user_agent":"$http_user_agent","request_id":"$request_id","upstream_host":"$upstream_addr",'
    '"downstream_local_address":"$server_addr:$server_port","downstream_remote_address":"$remote_addr:$remote_port",'
    '"x_forwarded_for":"$http_x_forwarded_for","referer":"$http_referer","upstream_status":"$upstream_status"}';
  access_log access.log json;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  upstream origin { server %(origin)s max_fails=5 fail_timeout=30s; keepalive 4000; keepalive_requests 1000000000; }
  server {
    listen %(address)s backlog=4096;
    location / {
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_read_timeout 15s;
      proxy_next_upstream error timeout http_500 http_502 http_503 http_504;
      proxy_next_upstream_tries 3;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Request-Id $request_id;
    }
  }
}
"""

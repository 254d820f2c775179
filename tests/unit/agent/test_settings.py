"""What an agent is told at its start: precedence, units, and every wrong value named before anything is bound."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from agent import __main__ as command
from agent import settings
from agent.settings import Service, ServiceCheck, ServicePort, Settings, load
from agent.supervisor.node import gateway_instance, xds_node
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import Locality

ROOT = Path(__file__).parents[3]
LEAST = """
[node]
name = "node-1"
address = "10.0.0.1"
[control_plane]
address = "10.0.0.9:18000"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def test_the_least_file_gets_every_default(tmp_path: Path) -> None:
    found = load(written(tmp_path, LEAST), {})
    assert (found.node.name, found.node.address, found.node.locality) == ("node-1", "10.0.0.1", Locality())
    assert found.control_plane.server_name == "gossamer-controlplane"
    assert found.control_plane.trust_domain == "cluster.local"
    proxy = found.proxy
    assert (proxy.workers, proxy.outbound_port, proxy.workload_port_start) == (1, 15001, 15100)
    assert (proxy.inbound_port_range, proxy.admin) == ((20000, 20999), ("127.0.0.1", 15000))
    assert (proxy.keys, proxy.access_log) == ("disk", "access.log")
    assert found.services == ()


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    text = (
        LEAST.replace('address = "10.0.0.1"', 'address = "10.0.0.1"\nlocality = "eu/a/r1"')
        + """
join_address = "[2001:db8::1]:18001"
token_file = "join-token"
trust_domain = "example.org"
[proxy]
state_dir = "state"
workers = 4
outbound_address = "127.0.0.9"
outbound_port = 16001
workload_port_start = 16100
inbound_port_range = "21000-21009"
admin = "[::1]:16000"
keys = "memory"
drain_timeout = "1m30s"
[log]
level = "debug"
json = true
[[service]]
name = "orders"
namespace = "shop"
service_account = "orders-sa"
port = 3001
labels = {app = "orders", version = "v1"}
weight = 5
outbound_port = 16101
[service.check]
http = "http://127.0.0.1:3001/health"
interval = "500ms"
timeout = 2
unhealthy_threshold = 3
deregister_after = "1h"
[[service]]
name = "mail"
id = "mail-main"
ports = [{name = "smtp", port = 25, protocol = "TCP"}, {port = 8080}]
check = {tcp = "127.0.0.1:25"}
"""
    )
    found = load(written(tmp_path, text), {})
    assert found.node.locality == Locality("eu", "a", "r1")
    assert found.state_dir == tmp_path / "state"
    assert found.control_plane.token_file == str(tmp_path / "join-token")
    assert (found.proxy.inbound_port_range, found.proxy.admin) == ((21000, 21009), ("::1", 16000))
    assert (found.proxy.drain_timeout_s, found.log.level, found.log.json) == (90.0, "debug", True)
    orders, mail = found.services
    assert orders == Service(
        name="orders",
        namespace="shop",
        service_account="orders-sa",
        id="orders-3001",
        ports=(ServicePort(port=3001),),
        labels=(("app", "orders"), ("version", "v1")),
        weight=5,
        outbound_port=16101,
        check=ServiceCheck(
            http="http://127.0.0.1:3001/health",
            interval_s=0.5,
            timeout_s=2.0,
            unhealthy_threshold=3,
            deregister_after_s=3600.0,
        ),
    )
    assert (mail.id, [port.port for port in mail.ports]) == ("mail-main", [25, 8080])


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "agents").glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_that_are_shipped_can_be_used(path: Path) -> None:
    found = load(path, {})
    assert found.node.name == path.stem
    assert found.control_plane.token_file == "/etc/gossamer/join-token"


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, LEAST + "[proxy]\nworkers = 2\noutbound_port = 1002\nworkload_port_start = 1003\n")
    environ = {"GOSSAMER_AGENT_PROXY_WORKERS": "3", "GOSSAMER_AGENT_PROXY_OUTBOUND_PORT": "2002", "HOME": "/x"}
    found = load(path, environ, {"proxy": {"workers": "4"}})
    assert (found.proxy.workers, found.proxy.outbound_port, found.proxy.workload_port_start) == (4, 2002, 1003)
    assert found.proxy.keys == "disk"


def test_a_file_is_not_needed() -> None:
    environ = {
        "GOSSAMER_AGENT_NODE_NAME": "node-1",
        "GOSSAMER_AGENT_NODE_ADDRESS": "10.0.0.1",
        "GOSSAMER_AGENT_CONTROL_PLANE_ADDRESS": "10.0.0.9:18000",
        "GOSSAMER_AGENT_LOG_JSON": "true",
        "GOSSAMER_AGENT_PROXY_DRAIN_TIMEOUT": "2s",
    }
    found = load(None, environ)
    assert (found.node.name, found.log.json, found.proxy.drain_timeout_s) == ("node-1", True, 2.0)


def test_auto_is_the_cores_that_may_be_used(tmp_path: Path) -> None:
    found = load(written(tmp_path, LEAST), {}, {"proxy": {"workers": "auto"}})
    assert found.proxy.workers == len(os.sched_getaffinity(0))


# (text behind the least file, or a replacement of a line of it; what is named; a word of the message or hint)
BAD_FILES: list[tuple[str, str, str]] = [
    ("[proxi]\nworkers = 1", "proxi", "did you mean proxy?"),
    ("[services]\nx = 1", "services", "did you mean service?"),
    ("[proxy]\nworker = 1", "proxy.worker", "did you mean workers?"),
    ("[proxy]\ndrain_timeout_s = 1", "proxy.drain_timeout_s", "did you mean drain_timeout?"),
    ("[proxy]\nzzz = 1", "proxy.zzz", "known are access_log"),
    ("proxy = 7", "control_plane.proxy", "unknown key"),
    ("[proxy]\nworkers = 0", "proxy.workers", "whole number from 1 to 256"),
    ("[proxy]\nworkers = 257", "proxy.workers", "257"),
    ("[proxy]\nworkers = true", "proxy.workers", "True"),
    ("[proxy]\nworkers = 1.5", "proxy.workers", "1.5"),
    ('[proxy]\nworkers = "many"', "proxy.workers", "many"),
    ('[proxy]\nworkers = "\u0663"', "proxy.workers", "whole number"),
    ("[proxy]\noutbound_port = 0", "proxy.outbound_port", "from 1 to 65535"),
    ("[proxy]\noutbound_port = 65536", "proxy.outbound_port", "65536"),
    ("[proxy]\noutbound_port = -1", "proxy.outbound_port", "-1"),
    ("[proxy]\nworkload_port_start = 70000", "proxy.workload_port_start", "70000"),
    ('[proxy]\ninbound_port_range = "20000"', "proxy.inbound_port_range", "20000-20999"),
    ('[proxy]\ninbound_port_range = "20999-20000"', "proxy.inbound_port_range", "a range of ports"),
    ('[proxy]\ninbound_port_range = "0-5"', "proxy.inbound_port_range", "a range of ports"),
    ('[proxy]\ninbound_port_range = "1-65536"', "proxy.inbound_port_range", "a range of ports"),
    ('[proxy]\ninbound_port_range = "\u00b2-\u00b3"', "proxy.inbound_port_range", "a range of ports"),
    ("[proxy]\ninbound_port_range = [1, 2]", "proxy.inbound_port_range", "expected text"),
    ('[proxy]\nadmin = "15000"', "proxy.admin", "host:port"),
    ('[proxy]\nadmin = "127.0.0.1:"', "proxy.admin", "host:port"),
    ('[proxy]\nadmin = "127.0.0.1:70000"', "proxy.admin", "host:port"),
    ('[proxy]\noutbound_address = "a b"', "proxy.outbound_address", "IP address or a host name"),
    ('[proxy]\noutbound_address = ""', "proxy.outbound_address", "IP address or a host name"),
    ('[proxy]\nkeys = "usb"', "proxy.keys", "'disk' or 'memory'"),
    ('[proxy]\ndrain_timeout = "soon"', "proxy.drain_timeout", "10s, 1m30s or 500ms"),
    ('[proxy]\ndrain_timeout = "0s"', "proxy.drain_timeout", "above 0"),
    ('[proxy]\ndrain_timeout = ""', "proxy.drain_timeout", "10s, 1m30s"),
    ("[proxy]\ndrain_timeout = -1", "proxy.drain_timeout", "above 0"),
    ("[proxy]\ndrain_timeout = nan", "proxy.drain_timeout", "above 0"),
    ("[proxy]\ndrain_timeout = inf", "proxy.drain_timeout", "up to a week"),
    ("[proxy]\ndrain_timeout = " + "9" * 400, "proxy.drain_timeout", "up to a week"),
    ("[proxy]\ndrain_timeout = true", "proxy.drain_timeout", "expected text"),
    ("[proxy]\nstate_dir = 7", "proxy.state_dir", "expected text"),
    ('[log]\nlevel = "loud"', "log.level", "'debug' or 'info'"),
    ('[log]\njson = "maybe"', "log.json", "true or false"),
    ("[log]\njson = 1", "log.json", "true or false"),
    ('trust_domain = "Example Org"', "control_plane.trust_domain", "lower-case letters"),
    ('join_address = "host"', "control_plane.join_address", "host:port"),
    ("token_file = 7", "control_plane.token_file", "expected text"),
    ("[service]\nname = 'a'", "service", "[[service]]"),
    ("[[service]]\nname = 'a'", "service[0].port", "a value is required"),
    ("[[service]]\nport = 1", "service[0].name", "a value is required"),
    ("[[service]]\nname = 'a/b'\nport = 1", "service[0].name", "letters, digits"),
    ("[[service]]\nname = 'a'\nport = 0", "service[0].ports[0].port", "from 1 to 65535"),
    ("[[service]]\nname = 'a'\nport = 1\nports = []", "service[0].port", "one of them"),
    ("[[service]]\nname = 'a'\nports = []", "service[0].ports", "1 to 64"),
    ("[[service]]\nname = 'a'\nports = [{port = 1}, {port = 1}]", "service[0].ports", "twice"),
    ("[[service]]\nname = 'a'\nports = [{prot = 1}]", "service[0].ports", "did you mean port?"),
    ("[[service]]\nname = 'a'\nports = [{port = 1, protocol = 'FTP'}]", "service[0].ports", "'HTTP' or 'HTTP2'"),
    ("[[service]]\nname = 'a'\nport = 1\nlabels = []", "service[0].labels", "a table of texts"),
    ("[[service]]\nname = 'a'\nport = 1\nlabels = {a = 1}", "service[0].labels", "a table of texts"),
    ("[[service]]\nname = 'a'\nport = 1\nweight = 129", "service[0].weight", "from 1 to 128"),
    ("[[service]]\nname = 'a'\nport = 1\noutbound_port = 65536", "service[0].outbound_port", "from 0 to 65535"),
    ("[[service]]\nname = 'a'\nport = 1\nnamespace = 'a b'", "service[0].namespace", "letters, digits"),
    ("[[service]]\nname = 'a'\nport = 1\nlable = {}", "service[0].lable", "did you mean labels?"),
    ("[[service]]\nname = 'a'\nport = 1\n[[service]]\nname = 'a'\nport = 1", "service[1].id", "twice"),
    ("[[service]]\nname = 'a'\nport = 1\ncheck = {}", "check", "exactly one of http, tcp and ttl"),
    ("[[service]]\nname = 'a'\nport = 1\ncheck = {ttl = '1s', tcp = 'a:1'}", "check", "exactly one of"),
    ("[[service]]\nname = 'a'\nport = 1\ncheck = {http = 'https://a/'}", "check.http", "http://host:port/path"),
    ("[[service]]\nname = 'a'\nport = 1\ncheck = {tcp = 'a'}", "check.tcp", "host:port"),
    (
        "[[service]]\nname = 'a'\nport = 1\ncheck = {ttl = '1s', intervall = 1}",
        "check.intervall",
        "did you mean interval?",
    ),
    ("[[service]]\nname = 'a'\nport = 1\ncheck = {ttl = '1s', healthy_threshold = 0}", "healthy_threshold", "from 1"),
    ("[[service]]\nname = 'a'\nport = 1\ncheck = 'http'", "check", "expected a table"),
    ("this is no TOML", "agent.toml", "line"),
    ("[node]\nname = 'again'", "agent.toml", "Cannot declare"),
]


@pytest.mark.parametrize(
    ("text", "subject", "words"), BAD_FILES, ids=[f"{i}-{s}" for i, (_, s, _) in enumerate(BAD_FILES)]
)
def test_what_is_wrong_in_a_file_is_named_with_the_remedy(tmp_path: Path, text: str, subject: str, words: str) -> None:
    path = written(tmp_path, f"{LEAST}{text}\n")
    with pytest.raises(MeshError) as caught:
        load(path, {})
    assert caught.value.code is ErrorCode.SETTINGS
    assert subject in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in caught.value.subject


@pytest.mark.parametrize(
    ("line", "by", "subject"),
    [
        ('name = "node-1"', "", "node.name: found nothing, a value is required"),
        ('name = "node-1"', 'name = "Node 1"', "node.name: found 'Node 1'"),
        ('name = "node-1"', 'name = "n' + "o" * 63 + '"', "node.name"),
        ('name = "node-1"', "name = 7", "node.name: found 7, expected text"),
        ('address = "10.0.0.1"', "", "node.address: found nothing"),
        ('address = "10.0.0.1"', 'address = "10.0.0.1/8"', "node.address: found '10.0.0.1/8'"),
        ('address = "10.0.0.1"', 'address = "x"\nlocality = "a/b/c/d"', "node.locality"),
        ('address = "10.0.0.9:18000"', "", "control_plane.address: found nothing"),
        (
            'address = "10.0.0.9:18000"',
            'address = "10.0.0.9"',
            "control_plane.address: found '10.0.0.9', expected host",
        ),
    ],
)
def test_what_must_be_said(tmp_path: Path, line: str, by: str, subject: str) -> None:
    with pytest.raises(MeshError) as caught:
        load(written(tmp_path, LEAST.replace(line, by)), {})
    assert subject in str(caught.value)


def test_a_server_that_is_not_ours(tmp_path: Path) -> None:
    """Paths are relative to the file, but for the word that means the machine's roots."""
    least = LEAST + 'mode = "xds"\nprotocol = "sotw"\n'
    found = load(written(tmp_path, least + 'tls_ca = "ca.pem"\ntls_cert = "c.pem"\ntls_key = "k.pem"\n'), {})
    settings = found.control_plane
    assert not settings.is_ours
    assert [settings.tls_ca, settings.tls_cert, settings.tls_key] == [
        str(tmp_path / name) for name in ("ca.pem", "c.pem", "k.pem")
    ]
    assert load(written(tmp_path, least + 'tls_ca = "system"\n'), {}).control_plane.tls_ca == "system"
    assert load(written(tmp_path, LEAST), {}).control_plane.is_ours


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('mode = "xds"\ntls_cert = "c.pem"\ntls_ca = "ca.pem"', "found a part of tls_ca, tls_cert and tls_key"),
        ('mode = "xds"\ntls_cert = "c.pem"\ntls_key = "k.pem"', "found a part of tls_ca, tls_cert and tls_key"),
        ('mode = "xds"\ntoken_file = "t"', "found token_file, expected it with mode = 'mesh' only"),
        ('mode = "xds"\njoin_address = "h:1"', "found join_address, expected it with mode = 'mesh' only"),
        ('tls_ca = "ca.pem"', "expected it with mode = 'xds' only"),
        ('mode = "istio"', "control_plane.mode: found 'istio', expected 'mesh' or 'xds'"),
        ('protocol = "rest"', "control_plane.protocol: found 'rest', expected 'delta' or 'sotw'"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, lines: str, words: str) -> None:
    with pytest.raises(MeshError) as caught:
        load(written(tmp_path, LEAST + lines + "\n"), {})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("GOSSAMER_AGENT_PROXY_WORKER", "1", "did you mean GOSSAMER_AGENT_PROXY_WORKERS?"),
        ("GOSSAMER_AGENT_WORKERS", "1", "did you mean GOSSAMER_AGENT_PROXY_WORKERS?"),
        ("GOSSAMER_AGENT_PROXY_WORKERS", "x", "proxy.workers: found 'x'"),
        ("GOSSAMER_AGENT_LOG_JSON", "yes", "log.json: found 'yes'"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variable: str, value: str, words: str) -> None:
    with pytest.raises(MeshError) as caught:
        load(written(tmp_path, LEAST), {variable: value})
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(MeshError) as caught:
            load(path, {})
        assert str(path) in str(caught.value)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MeshError, match=r"binary\.toml"):
        load(tmp_path / "binary.toml", {})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10.0), ("1m30s", 90.0), ("500ms", 0.5), ("1h", 3600.0), ("1.5s", 1.5), ("1h1m1s1ms", 3661.001)],
)
def test_durations(text: str, seconds: float) -> None:
    assert settings.duration_s(text) == pytest.approx(seconds)
    assert settings.duration_s(seconds) == pytest.approx(seconds)


# --- the command line ---------------------------------------------------------------------------------------------


def parsed(*arguments: str, environ: dict[str, str] | None = None) -> Settings:
    return command.load(command.parse(arguments), environ or {})


def test_every_flag_reaches_its_setting(tmp_path: Path) -> None:
    values: dict[str, tuple[str, Any]] = {
        "--node": ("node-9", lambda s: s.node.name == "node-9"),
        "--node-address": ("10.9.9.9", lambda s: s.node.address == "10.9.9.9"),
        "--locality": ("us/b", lambda s: s.node.locality == Locality("us", "b")),
        "--control-plane": ("h:1", lambda s: s.control_plane.address == "h:1"),
        "--join-address": ("h:2", lambda s: s.control_plane.join_address == "h:2"),
        "--token-file": ("/t", lambda s: s.control_plane.token_file == "/t"),
        "--control-plane-mode": ("mesh", lambda s: s.control_plane.is_ours),
        "--xds-protocol": ("sotw", lambda s: s.control_plane.protocol == "sotw"),
        "--trust-domain": ("td", lambda s: s.control_plane.trust_domain == "td"),
        "--state-dir": ("/s", lambda s: s.state_dir == Path("/s")),
        "--workers": ("7", lambda s: s.proxy.workers == 7),
        "--outbound-address": ("127.0.0.7", lambda s: s.proxy.outbound_address == "127.0.0.7"),
        "--outbound-port": ("1001", lambda s: s.proxy.outbound_port == 1001),
        "--workload-port-start": ("1100", lambda s: s.proxy.workload_port_start == 1100),
        "--inbound-port-range": ("30000-30009", lambda s: s.proxy.inbound_port_range == (30000, 30009)),
        "--admin": ("127.0.0.1:1500", lambda s: s.proxy.admin == ("127.0.0.1", 1500)),
        "--access-log": ("a.log", lambda s: s.proxy.access_log == "a.log"),
        "--keys": ("memory", lambda s: s.proxy.keys == "memory"),
        "--log-level": ("error", lambda s: s.log.level == "error"),
    }
    assert set(values) == set(command.FLAGS)
    arguments = [word for flag, (value, _) in values.items() for word in (flag, value)]
    found = parsed("--config", str(written(tmp_path, LEAST)), *arguments, "--log-json")
    assert [flag for flag, (_, holds) in values.items() if not holds(found)] == []
    assert found.log.json


def run(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "agent", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("GOSSAMER_")}, **(environ or {})},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "AGENT.TOML", "--worker", "1"], "did you mean --workers?"),
        (["--config", "AGENT.TOML", "--workers", "0"], "settings: proxy.workers: found '0'"),
        (["--config", "AGENT.TOML", "--keys", "usb"], "proxy.keys"),
        (["--config", "/nowhere/agent.toml"], "/nowhere/agent.toml: no such file"),
        ([], "node.name: found nothing, a value is required"),
    ],
)
def test_wrong_settings_exit_64_in_one_line_and_touch_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    path = written(tmp_path, LEAST + '[proxy]\nstate_dir = "state"\n')
    ended = run(*(str(path) if word == "AGENT.TOML" else word for word in arguments))
    assert ended.returncode == 64
    assert words.removeprefix("settings: ") in ended.stderr
    assert ended.stdout == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent.toml"], "nothing was written, so nothing was bound"


def test_check_says_nothing_when_all_is_well(tmp_path: Path) -> None:
    ended = run("--config", str(written(tmp_path, LEAST)), "--check")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_gateway(tmp_path: Path) -> None:
    """Off unless it is enabled; then the node says so to the control plane, and is an instance of its own."""
    assert not load(written(tmp_path, LEAST), {}).gateway.enabled
    text = LEAST + "[gateway]\nenabled = true\nnamespace = 'edge'\nservice_account = 'sa'\nlabels = {istio = 'edge'}\n"
    found = load(written(tmp_path, text), {})
    metadata = json_format.MessageToDict(xds_node(found).metadata)
    assert (metadata["GATEWAY"], metadata["LABELS"], metadata["NAMESPACE"]) == (True, {"istio": "edge"}, "edge")
    assert (metadata["SERVICE_ACCOUNT"], metadata["GATEWAY_ADDRESS"]) == ("sa", "10.0.0.1")
    (own,) = gateway_instance(found.gateway)
    assert (own.id, own.namespace, own.service_account, own.ports, own.gateway) == ("gateway", "edge", "sa", (), True)
    wide = load(written(tmp_path, f"{text}address = '0.0.0.0'\n"), {})
    assert json_format.MessageToDict(xds_node(wide).metadata)["GATEWAY_ADDRESS"] == "0.0.0.0"
    assert "GATEWAY" not in json_format.MessageToDict(xds_node(load(written(tmp_path, LEAST), {})).metadata)
    assert gateway_instance(load(written(tmp_path, LEAST), {}).gateway) == ()


def test_labels_of_no_gateway(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="expected enabled = true beside them") as caught:
        load(written(tmp_path, LEAST + "[gateway]\nlabels = {istio = 'edge'}\n"), {})
    assert caught.value.code is ErrorCode.SETTINGS

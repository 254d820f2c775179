"""Applications that can be reached past the agent (decision 9)."""

import ipaddress
import socket
from pathlib import Path

import pytest

from agent.workloads import bypass
from agent.workloads.bypass import beyond_loopback, exposed_ports, listening

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(packed: str, port: int, state: str = "0A") -> str:
    return (
        f"   0: {packed}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 1 1 0\n"
    )


def packed(address: str) -> str:
    """As the kernel prints it: 32-bit words in the machine's order."""
    raw = ipaddress.ip_address(address).packed
    words = [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4)]
    return "".join(f"{word:08X}" for word in words)


@pytest.mark.parametrize(
    ("address", "exposed"),
    [
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("0.0.0.0", True),
        ("10.1.2.3", True),
        ("::1", False),
        ("::", True),
        ("2001:db8::1", True),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.1.2.3", True),
    ],
)
def test_who_can_reach_an_address(address: str, exposed: bool) -> None:
    found = listening(HEAD + line(packed(address), 3001))
    assert len(found) == 1
    assert (beyond_loopback(found) == {3001}) is exposed


def test_only_listening_sockets_count() -> None:
    text = HEAD + line(packed("0.0.0.0"), 1, "01") + line(packed("0.0.0.0"), 2, "06") + line(packed("0.0.0.0"), 3)
    assert listening(text) == {("0.0.0.0", 3)}
    assert listening(HEAD) == listening("") == set()


def test_a_real_socket_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as inside, socket.create_server(("0.0.0.0", 0)) as outside:
        found = exposed_ports()
        assert outside.getsockname()[1] in found
        assert inside.getsockname()[1] not in found


def test_where_proc_cannot_be_read_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "tcp"
    damaged.write_text(HEAD + "   0: zz:0BB9 00000000:0000 0A\n")
    monkeypatch.setattr(bypass, "_FILES", (damaged, tmp_path / "missing"))
    assert exposed_ports() == frozenset()

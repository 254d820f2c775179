"""The server name in a ClientHello: what real clients send, in whatever pieces it comes, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.listener.client_hello import MAX_BYTES, NoClientHello, server_name
from tests.support.client_hellos import hello


def in_records(whole: bytes, size: int) -> bytes:
    """The same message in records of at most `size` bytes."""
    message = whole[5:]
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(whole[:3] + len(part).to_bytes(2, "big") + part for part in parts)


@pytest.mark.parametrize("tls12", [False, True], ids=["1.3", "1.2"])
@pytest.mark.parametrize("name", ["www.example.com", "a.b", None])
def test_the_name_and_nothing_behind_it(name: str | None, tls12: bool) -> None:
    data = hello(name, tls12=tls12, protocols=["h2", "http/1.1"])
    assert server_name(data) == (name or "")
    assert server_name(data + b"\x17anything") == (name or "")


def test_every_beginning_waits_for_the_rest() -> None:
    data = hello("www.example.com")
    assert {server_name(data[:length]) for length in range(1, len(data))} == {None}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_hello_over_several_records(size: int) -> None:
    data = in_records(hello("www.example.com"), size)
    assert server_name(data) == "www.example.com"
    assert server_name(data[:-1]) is None


def test_names_are_lower_case() -> None:
    assert server_name(hello("www.example.com").replace(b"www.example.com", b"WWW.example.COM")) == "www.example.com"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
        b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\x03\x03\x00\x00",
        b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + b"\x00" * MAX_BYTES,
    ],
    ids=["http", "empty record", "another message", "cut", "too long"],
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(NoClientHello):
        server_name(data)


@given(st.binary(max_size=200), st.integers(0, 600))
def test_whatever_comes_is_answered(noise: bytes, at: int) -> None:
    """A name, none, more to come, or NoClientHello: never anything else."""
    data = hello("www.example.com")
    for sample in (b"\x16" + noise, data[:at] + noise + data[at:], data[:at] + noise):
        try:
            found = server_name(sample)
        except NoClientHello:
            continue
        assert found is None or isinstance(found, str)

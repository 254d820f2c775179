"""Frames between supervisor and worker: what is written is read back however it is cut; damage is a FrameError."""

import contextlib
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ipc import frames, messages
from agent.ipc.frames import FrameError
from agent.model.cluster import Endpoint, HashTable, LoadAssignment
from agent.model.tls import KeyPair
from mesh.vocabulary import HealthStatus, Locality

text = st.text(max_size=20)
counts = st.integers(-(2**63), 2**63 - 1)
pairs = st.lists(st.tuples(text, text), max_size=3).map(tuple)
localities = st.builds(Locality, text, text, text)
endpoints = st.builds(
    Endpoint,
    address=text,
    port=st.integers(0, 65535),
    health=st.sampled_from(HealthStatus),
    locality=localities,
    weight=st.integers(1, 2**32),
    priority=st.integers(0, 127),
    transport=pairs,
)
assignments = st.builds(LoadAssignment, cluster=text, endpoints=st.lists(endpoints, max_size=4).map(tuple))
key_pairs = st.builds(KeyPair, identity=text, chain_pem=st.binary(max_size=30), key_pem=st.binary(max_size=30))
hash_tables = st.builds(
    HashTable,
    priority=st.integers(0, 127),
    hosts=st.lists(text, max_size=3).map(tuple),
    ring=st.booleans(),
    entries=counts,
)
numbers = st.dictionaries(text, counts, max_size=3)
anything = st.one_of(
    st.builds(messages.Welcome, slot=counts, slots=counts, node=text, shared_bytes=counts),
    st.builds(messages.Put, st.just(messages.LOAD_ASSIGNMENT), text, assignments),
    st.builds(messages.Remove, st.sampled_from(messages.KINDS), text),
    st.builds(messages.Commit, counts),
    st.builds(messages.AddListener, text),
    st.builds(messages.Identities, st.lists(key_pairs, max_size=3).map(tuple), st.binary(max_size=30)),
    st.builds(messages.HostState, text, text, st.booleans()),
    st.builds(messages.HashTables, text, st.lists(hash_tables, max_size=2).map(tuple)),
    st.builds(messages.Cells, text, counts),
    st.builds(messages.Ping, counts),
    st.builds(messages.Drain, st.floats(allow_nan=False)),
    st.builds(messages.Ready, counts),
    st.builds(messages.Committed, counts, st.lists(text, max_size=3).map(tuple)),
    st.builds(messages.Pong, counts, st.floats(allow_nan=False)),
    st.builds(messages.EjectRequest, text, text, text, counts, counts),
    st.builds(
        messages.StatsDelta,
        numbers,
        numbers,
        st.dictionaries(text, st.lists(counts, max_size=3).map(tuple), max_size=2),
        st.dictionaries(text, st.floats(allow_nan=False), max_size=2),
        st.lists(st.tuples(text, text, counts, counts, counts, counts), max_size=3).map(tuple),
    ),
    st.just(messages.Drained()),
)


@given(anything)
def test_what_is_written_is_read_back(message: Any) -> None:
    back = frames.decode(frames.encode(message))
    assert back == message
    assert type(back) is type(message)


@given(anything, st.integers(0, 10**6))
def test_a_frame_that_is_cut_short_is_refused(message: Any, cut: int) -> None:
    frame = frames.encode(message)
    with pytest.raises(FrameError):
        frames.decode(frame[: cut % len(frame)])


@given(anything, st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_body_is_refused(message: Any, place: int, flip: int) -> None:
    frame = bytearray(frames.encode(message))
    body = len(frame) - frames.HEADER.size
    frame[frames.HEADER.size + place % body] ^= flip
    with pytest.raises(FrameError):
        frames.decode(bytes(frame))


@given(st.binary(max_size=300))
def test_any_body_is_a_message_or_a_frame_error(body: bytes) -> None:
    found: Any = messages.Drained()
    with contextlib.suppress(FrameError):
        found = frames.decode_body(body, zlib.crc32(body))
    assert type(found) in frames.MESSAGES


@given(st.binary(max_size=40))
def test_any_header_is_within_the_limits_or_a_frame_error(data: bytes) -> None:
    found = (0, 0, 0)
    with contextlib.suppress(FrameError):
        found = frames.header_of(data)
    assert found[0] <= frames.MAX_BODY_BYTES
    assert found[2] <= frames.MAX_DESCRIPTORS

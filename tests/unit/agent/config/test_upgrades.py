"""Protocols that a connection may be switched to."""

import pytest

from agent.config.fields import Refused
from agent.config.upgrades import upgrade_type


def test_case_does_not_count() -> None:
    assert upgrade_type("WebSocket", "p") == "websocket"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "found '', expected a protocol"),
        ("connect-UDP", "found connect-UDP, expected another protocol: the agent does not enforce it"),
    ],
)
def test_refused(name: str, expected: str) -> None:
    with pytest.raises(Refused) as caught:
        upgrade_type(name, "p")
    assert caught.value.reason == expected

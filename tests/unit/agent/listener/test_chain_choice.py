"""Which chain takes which connection."""

import pytest

from agent.listener.chain_choice import RAW, TLS, ChainChoice


class Chain:
    def __init__(self, name: str, *server_names: str, transport: str = "") -> None:
        self.name, self.server_names, self.transport = name, server_names, transport


CHAINS = (
    Chain("suffix", "*.example.com"),
    Chain("exact", "www.example.com", "other.org"),
    Chain("long suffix", "*.eu.example.com"),
    Chain("raw", transport=RAW),
    Chain("rest", transport=TLS),
)


@pytest.mark.parametrize(
    ("transport", "name", "expected"),
    [
        (TLS, "www.example.com", "exact"),
        (TLS, "other.org", "exact"),
        (TLS, "api.example.com", "suffix"),
        (TLS, "a.api.example.com", "suffix"),
        (TLS, "api.eu.example.com", "long suffix"),
        (TLS, "example.com", "rest"),
        (TLS, "www.other.org", "rest"),
        (TLS, "", "rest"),
        (RAW, "", "raw"),
    ],
)
def test_the_most_specific_name_wins(transport: str, name: str, expected: str) -> None:
    found = ChainChoice(CHAINS).choose(transport, name)
    assert found is not None
    assert found.name == expected


def test_nobody_takes_it() -> None:
    named: ChainChoice[Chain] = ChainChoice(CHAINS[:3])
    assert named.by_name
    assert named.choose(TLS, "nobody.org") is None
    assert named.choose(RAW) is None
    assert not ChainChoice(CHAINS[3:]).by_name
    assert ChainChoice(CHAINS[3:4]).choose(TLS) is None


def test_of_one_name_the_transport_decides() -> None:
    two = ChainChoice((Chain("tls", "a.org", transport=TLS), Chain("any", "a.org")))
    assert [getattr(two.choose(kind, "a.org"), "name", None) for kind in (TLS, RAW)] == ["tls", "any"]

"""What authorization costs one request, by how many policies there are: `python -m bench.authorization`.

Prints microseconds per verdict for 1 to 10,000 policies of one host that differ by path, by caller, by namespace, and
for reading and checking a token. In this process, one core; compare the rows, not with other machines.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agent.codec.head import Headers, RequestHead
from agent.filters.jwt import parsed
from agent.filters.rbac import Asking, CompiledRules
from agent.model.matchers import HeaderMatcher, MatchKind, StringMatcher
from agent.model.rbac import Action, AllOf, Condition, HeaderIs, PathIs, PeerIs, RbacPolicy, RbacRules
from agent.upstream.signatures import Keys

NUMBERS = (1, 10, 100, 1000, 10_000)
_S = 0.2  # per row


def _text(value: str, kind: MatchKind = MatchKind.EXACT) -> StringMatcher:
    return StringMatcher(kind=kind, value=value)


_GET = HeaderIs(matcher=HeaderMatcher(name=":method", matcher=_text("GET")))
SHAPES: dict[str, Callable[[int], Condition]] = {
    "by path": lambda n: AllOf(conditions=(_GET, PathIs(matcher=_text(f"/p{n}/", MatchKind.PREFIX)))),
    "by caller": lambda n: AllOf(conditions=(_GET, PeerIs(matcher=_text(f"spiffe://td/ns/n{n}/sa/a")))),
    "by namespace": lambda n: AllOf(
        conditions=(_GET, PeerIs(matcher=_text(f".*/ns/n{n}/.*", MatchKind.REGEX)))
    ),
}  # fmt: skip


def _asking(number: int) -> Asking:
    head = RequestHead(b"GET", b"/p%d/x?y=1" % number, b"h", Headers())
    return Asking(head, "10.0.0.1:1", "10.0.0.1", "10.0.0.2:2", (b"spiffe://td/ns/n%d/sa/a" % number,), {})


def _us(call: Callable[[], object]) -> float:
    """Microseconds per call, the best of three."""
    best = float("inf")
    for _ in range(3):
        count, until = 0, time.perf_counter() + _S
        begun = time.perf_counter()
        while (now := time.perf_counter()) < until:
            for _ in range(100):
                call()
            count += 100
        best = min(best, (now - begun) / count)
    return best * 1e6


def rbac() -> None:
    """The table of policies."""
    print("us per verdict    " + "".join(f"{number:>10}" for number in NUMBERS) + "   policies")
    for name, shape in SHAPES.items():
        row = []
        for number in NUMBERS:
            policies = tuple(RbacPolicy(name=f"p{n:05}", condition=shape(n)) for n in range(number))
            rules = CompiledRules(RbacRules(action=Action.ALLOW, policies=policies))
            last = number - 1
            assert rules.verdict(_asking(last)).allowed
            row.append(_us(lambda rules=rules, last=last: rules.verdict(_asking(last))))
        print(f"{name:<18}" + "".join(f"{value:>10.2f}" for value in row))


def tokens(folder: Path) -> None:
    """Parsing and checking; `folder` holds the tests' signers."""
    sys.path.insert(0, str(folder))
    from tests.support.tokens import ec_signer, ed25519_signer, jwks, rsa_signer

    print("\nus per token           parse    signature")
    for name, signer in (("RS256", rsa_signer("a")), ("ES256", ec_signer("b")), ("EdDSA", ed25519_signer("c"))):
        text = signer.token({"iss": "i", "sub": "s", "aud": "a", "exp": 2**31})
        keys, token = Keys(jwks(signer)), parsed(text)
        assert keys.verify(token.algorithm, token.key_id, token.signed, token.signature) == ""
        parse = _us(lambda text=text: parsed(text))
        check = _us(lambda k=keys, t=token: k.verify(t.algorithm, t.key_id, t.signed, t.signature))
        print(f"{name:<18}{parse:>10.1f}{check:>13.1f}")
    print(json.dumps({"python": sys.version.split()[0]}))


if __name__ == "__main__":
    rbac()
    tokens(Path(__file__).resolve().parents[1])

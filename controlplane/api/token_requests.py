"""Join tokens over the API: what a client may ask for, and how a token is shown.

Owns:   reading the request of a new token; the JSON of a token.
Not:    minting and spending (ca.tokens).
Source: decision 13.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from controlplane.api.errors import FieldProblem, InvalidObjects
from controlplane.api.exchange import duration_s
from controlplane.api.state_json import time_of
from controlplane.ca.tokens import DEFAULT_TTL_S, JoinToken, MintedToken, TokenStore
from mesh.errors import ErrorCode, MeshError

_FIELDS = ("node", "namespaces", "service_accounts", "ttl", "ttl_s", "uses")


async def create_token(tokens: TokenStore, body: Mapping[str, Any], author: str) -> dict[str, Any]:
    """Mint the token that `body` asks for; the text is shown this once. Raises INVALID naming the field."""
    for field in body:
        if field not in _FIELDS:
            near = get_close_matches(str(field), _FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_FIELDS)}"
            raise _invalid(str(field)[:64], f"found an unknown field ({hint})")
    try:
        minted = await tokens.create(
            node=_text(body, "node"),
            namespaces=_texts(body, "namespaces", ("default",)),
            service_accounts=_texts(body, "service_accounts", ("*",)),
            ttl_s=_ttl_s(body),
            uses=_whole(body, "uses", 1),
            author=author,
        )
    except MeshError as error:
        if error.code is ErrorCode.INVALID and not isinstance(error, InvalidObjects):
            raise _invalid(error.subject, error.message) from error
        raise
    return _minted_json(minted)


def token_json(token: JoinToken) -> dict[str, Any]:
    """A token without its secret."""
    return {
        "id": token.id,
        "node": token.node,
        "namespaces": list(token.namespaces),
        "service_accounts": list(token.service_accounts),
        "expires": time_of(token.expires_ms / 1000),
        "uses_left": token.uses_left,
        "created": time_of(token.created_ms / 1000),
        "created_by": token.created_by,
        "redeemed_by": sorted({past.node for past in token.redemptions}),
    }


def _minted_json(minted: MintedToken) -> dict[str, Any]:
    return {"token": minted.text.reveal(), **token_json(minted.token)}


def _text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise _invalid(field, f"found {value!r}, expected a name")
    return value


def _texts(body: Mapping[str, Any], field: str, default: Sequence[str]) -> tuple[str, ...]:
    value = body.get(field, list(default))
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _invalid(field, f"found {value!r}, expected a list of names")
    return tuple(value)


def _whole(body: Mapping[str, Any], field: str, default: int) -> int:
    value = body.get(field, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid(field, f"found {value!r}, expected a whole number")
    return value


def _ttl_s(body: Mapping[str, Any]) -> int:
    if "ttl" not in body:
        return _whole(body, "ttl_s", DEFAULT_TTL_S)
    if "ttl_s" in body:
        raise _invalid("ttl", "found both ttl and ttl_s, expected one of them")
    value = body["ttl"]
    if not isinstance(value, str):
        raise _invalid("ttl", f"found {value!r}, expected a duration such as 1h")
    try:
        return int(duration_s(value, subject="ttl"))
    except MeshError as error:
        raise _invalid("ttl", error.message) from error


def _invalid(field: str, message: str) -> InvalidObjects:
    return InvalidObjects([FieldProblem(field=field, message=message, object="join token")])

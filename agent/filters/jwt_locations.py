"""Where tokens stand in a request, and taking them out.

Source: envoy/extensions/filters/http/jwt_authn: a provider without locations looks at `Authorization: Bearer`, then at
        the parameter access_token; headers before parameters before cookies. Envoy's extractor.
Invariant: a token is looked for only where its provider says, so that one provider's place is not another's.
"""

from typing import Final

from agent.codec.head import Headers, RequestHead
from agent.model.jwt import JwtProvider
from agent.router.matchers import query_parameters

_ACCESS_TOKEN: Final = b"access_token"
_COOKIE: Final = b"cookie"
_HEADER, _PARAMETER, _COOKIE_KIND = 0, 1, 2


class Found:
    """A token and its place."""

    __slots__ = ("kind", "name", "text")

    def __init__(self, text: bytes, kind: int, name: bytes) -> None:
        self.text = text
        self.kind = kind
        self.name = name

    def remove(self, head: RequestHead) -> None:
        """Take it out of the request. A cookie stays, as in Envoy."""
        if self.kind == _HEADER:
            head.headers.remove(self.name)
        elif self.kind == _PARAMETER:
            head.path = _without_parameter(head.path, self.name)


class Locations:
    """Where one provider's tokens are."""

    __slots__ = ("_cookies", "_headers", "_parameters")

    def __init__(self, provider: JwtProvider) -> None:
        stated = provider.from_headers or provider.from_params or provider.from_cookies
        headers = provider.from_headers if stated else (("authorization", "Bearer "),)
        self._headers = tuple((name.encode(), prefix.encode()) for name, prefix in headers)
        self._parameters = tuple(name.encode() for name in provider.from_params) if stated else (_ACCESS_TOKEN,)
        self._cookies = tuple(name.encode() for name in provider.from_cookies)

    def tokens(self, head: RequestHead) -> list[Found]:
        """All that are there."""
        index = head.headers.index
        found: list[Found] = []
        for name, prefix in self._headers:
            value = index.get(name)
            text = _after(value, prefix) if value is not None else b""
            if text:
                found.append(Found(text, _HEADER, name))
        if self._parameters and b"?" in head.path:
            parameters = query_parameters(head.path)
            found += [Found(parameters[name], _PARAMETER, name) for name in self._parameters if parameters.get(name)]
        if self._cookies and _COOKIE in index:
            cookies = _cookies(head.headers)
            found += [Found(cookies[name], _COOKIE_KIND, name) for name in self._cookies if cookies.get(name)]
        return found


def _after(value: bytes, prefix: bytes) -> bytes:
    """What is behind a prefix, which may stand anywhere in the value."""
    if not prefix:
        return value
    place = value.find(prefix)
    if place < 0:
        return b""
    return value[place + len(prefix) :].lstrip(b" ")


def _cookies(headers: Headers) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for pair in headers.index[_COOKIE].split(b";"):
        name, mark, value = pair.strip(b" \t").partition(b"=")
        if mark:
            found.setdefault(name, value.strip(b'"'))
    return found


def _without_parameter(path: bytes, name: bytes) -> bytes:
    before, mark, query = path.partition(b"?")
    kept = [pair for pair in query.split(b"&") if pair.partition(b"=")[0] != name]
    return before + mark + b"&".join(kept) if kept else before

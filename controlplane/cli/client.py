"""The REST client: requests to the control plane, answers, and refusals that a person can act on.

Owns:   the connection, the API token, time limits, errors as MeshError, watch streams as events.
Not:    what is asked and how it is shown (controlplane.cli.commands), which paths objects have (resources).
Source: controlplane/api: errors are Kubernetes `Status` objects; warnings come as `Warning: 299` headers.

Invariants:
  The token is read from a file or the environment, never from argv, and stands in no error.
  Every request has a time limit; a watch has one for its beginning and none for its life.
"""

import asyncio
import json
import os
import ssl
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from controlplane.cli.arguments import DEFAULT_SERVER, SERVER_VARIABLE, TOKEN_VARIABLE, environment, version
from controlplane.cli.refusals import no_status, refusal_of
from mesh.errors import ErrorCode, MeshError
from mesh.secret import Secret

_MAX_LINE_BYTES = 16 * 1024 * 1024
Query = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the control plane is and how it is spoken to. `url` has no trailing slash; an empty token = none."""

    url: str
    token: Secret
    ca_file: str
    timeout_s: float

    @property
    def host(self) -> str:
        """The host of the address, without port."""
        return urlsplit(self.url).hostname or "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: the decoded body, the warnings, the headers."""

    value: Any
    warnings: tuple[str, ...]
    headers: Mapping[str, str]


def server_of(arguments: Namespace) -> Server:
    """From the flags, then the environment. Raises SETTINGS."""
    url = arguments.server or environment(SERVER_VARIABLE) or DEFAULT_SERVER
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise MeshError(ErrorCode.SETTINGS, f"found {url!r}, expected http://HOST:PORT", subject="--server")
    return Server(
        url=f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}",
        token=_token(arguments.token_file),
        ca_file=arguments.ca_file or "",
        timeout_s=arguments.timeout,
    )


def _token(path: str | None) -> Secret:
    if not path:
        return Secret(environment(TOKEN_VARIABLE).strip())
    try:
        text = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise MeshError(ErrorCode.SETTINGS, f"cannot read {path}: {reason}", subject="--token-file") from error
    if not text or len(text.split()) != 1:
        raise MeshError(ErrorCode.SETTINGS, f"expected one token in {path}", subject="--token-file")
    return Secret(text)


def run_with_client(arguments: Namespace, work: "Callable[[Client], Awaitable[int]]") -> int:
    """Run a command's coroutine with a client of the server that the flags name."""
    server = server_of(arguments)

    async def connected() -> int:
        async with Client(server) as client:
            return await work(client)

    return asyncio.run(connected())


class Client:
    """One connection pool to one control plane. Use as an async context manager."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Client":
        headers = {"User-Agent": f"meshctl/{version()}", "Accept": "application/json"}
        if self.server.token.reveal():
            headers["Authorization"] = f"Bearer {self.server.token.reveal()}"
        connector = aiohttp.TCPConnector(limit=8, ssl=_tls(self.server))
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=connector,
            read_bufsize=_MAX_LINE_BYTES,
            max_line_size=65536,
            max_field_size=65536,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, query: Query | None = None, *, accept: str = "") -> Any:
        """The decoded body. Raises MeshError: NOT_FOUND, UNAUTHENTICATED, UNAVAILABLE, TIMEOUT and more."""
        return (await self.send("GET", path, query=query, accept=accept)).value

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        accept: str = "",
        timeout_s: float = 0.0,
    ) -> Answer:
        """One request with a JSON body. `timeout_s` 0 = the one of the flags. Raises Refusal, UNAVAILABLE, TIMEOUT."""
        limit = aiohttp.ClientTimeout(total=timeout_s or self.server.timeout_s)
        async with self._request(method, path, query, body, accept, limit) as response:
            raw = await response.read()
            value = _decoded(raw, response.status, self.server.url)
            if response.status >= 300:
                raise refusal_of(value, status=response.status, url=self.server.url)
            warnings = tuple(map(_warning, response.headers.getall("Warning", [])))
            return Answer(value, warnings, response.headers)

    async def watch(self, path: str, query: Query, *, accept: str = "") -> AsyncIterator[dict[str, Any]]:
        """The events of a watch until the server ends it. Raises as `send`, COMPACTED when the revision is too old."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=self.server.timeout_s)
        async with self._request("GET", path, {**query, "watch": "1"}, None, accept, limit) as response:
            if response.status >= 300:
                value = _decoded(await response.read(), response.status, self.server.url)
                raise refusal_of(value, status=response.status, url=self.server.url)
            async for line in response.content:
                event = _decoded(line, response.status, self.server.url)
                if event.get("type") == "ERROR":
                    raise refusal_of(event.get("object"), status=500, url=self.server.url)
                yield event

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, query: Query | None, body: Any, accept: str, limit: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        headers = {"Accept": accept} if accept else {}
        try:
            async with self._session.request(
                method, self.server.url + path, params=query, json=body, headers=headers, timeout=limit,
                allow_redirects=False,
            ) as response:  # fmt: skip
                yield response
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise self._failure(ErrorCode.TIMEOUT, f"no answer to {method} {path} in time", "--timeout") from error
        except aiohttp.ClientConnectorCertificateError as error:
            reason = f"its certificate is not trusted: {error.certificate_error}"
            raise self._failure(ErrorCode.UNAVAILABLE, reason, "--ca-file names the roots") from error
        except aiohttp.ClientConnectorError as error:
            code = error.os_error.errno
            reason = (
                os.strerror(code) if code and code > 0 else str(error.os_error)
            )  # a name that is not found has none
            hint = f"is the control plane running? --server or {SERVER_VARIABLE} names another"
            raise self._failure(ErrorCode.UNAVAILABLE, f"cannot connect: {reason}", hint) from error
        except (aiohttp.ClientError, OSError) as error:
            reason = f"the connection broke at {method} {path}: {error or type(error).__name__}"
            raise self._failure(ErrorCode.UNAVAILABLE, reason, "") from error

    def _failure(self, code: ErrorCode, message: str, hint: str) -> MeshError:
        return MeshError(code, message, subject=self.server.url, hint=hint)


def _tls(server: Server) -> ssl.SSLContext | bool:
    if not server.url.startswith("https:"):
        return True
    try:
        return ssl.create_default_context(cafile=server.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise MeshError(ErrorCode.SETTINGS, f"cannot read {server.ca_file}: {error}", subject="--ca-file") from error


def _decoded(raw: bytes, status: int, url: str) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        if status < 300:
            raise MeshError(
                ErrorCode.UNREADABLE, "found an answer that is not JSON", subject=url, hint="is it a Gossamer server?"
            ) from error
        raise no_status(status, url) from error


def _warning(header: str) -> str:
    """The text of `299 - "text"`."""
    _, _, quoted = header.partition('"')
    return quoted.removesuffix('"').replace('\\"', '"').replace("\\\\", "\\")


def warn(warnings: tuple[str, ...] | list[str]) -> None:
    """Warnings go to standard error, so that they do not mix with what is piped on."""
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)

"""What every HTTP request passes: the host guard, authentication, the time limit, errors as Status, the access log.

Invariants:
  Every failure is a Kubernetes `Status` object; a traceback goes to the log, never to the client.
  A path that answers without a token shows nothing of the mesh.
"""

import asyncio
import json

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from controlplane.api.auth import Authenticator, check_host
from controlplane.api.errors import ANSWERS, status_object
from controlplane.api.exchange import AUTHOR
from controlplane.api.view import Dependencies
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger

_log = get_logger("controlplane.api.access")

# Probes and the pages that ask for a token themselves.
OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/livez", "/readyz", "/version"})

_REASONS = {
    404: ("NotFound", ErrorCode.NOT_FOUND),
    405: ("MethodNotAllowed", ErrorCode.UNREADABLE),
    413: ("RequestEntityTooLarge", ErrorCode.TOO_LARGE),
    415: ("UnsupportedMediaType", ErrorCode.UNREADABLE),
    429: ("TooManyRequests", ErrorCode.UNAVAILABLE),
}


def make_middlewares(dependencies: Dependencies) -> list[Middleware]:
    """Outermost first."""
    authenticator = Authenticator(dependencies.api_tokens)

    @web.middleware
    async def log(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = dependencies.clock.monotonic()
        status = 499  # the client went away
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            _log.debug(
                "request",
                method=request.method,
                path=request.path_qs,
                status=status,
                ms=round((dependencies.clock.monotonic() - started) * 1000, 1),
                author=request.get(AUTHOR, ""),
                peer=request.remote,
                user_agent=request.headers.get("User-Agent", ""),
            )

    @web.middleware
    async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except MeshError as error:
            return failure(error)
        except web.HTTPException as error:
            return _http_failure(request, error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence: logged whole, told without its insides
            _log.error("request failed", exc_info=error, method=request.method, path=request.path)
            return failure(MeshError(ErrorCode.INTERNAL, "an error of the server; its log says more"))

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        check_host(
            request.headers.get("Host", ""),
            request.headers.get("Origin", ""),
            bound_to_loopback=dependencies.bound_to_loopback,
        )
        if request.path in OPEN_PATHS:
            request[AUTHOR] = ""
        else:
            request[AUTHOR] = authenticator.author(request.headers.get("Authorization", ""))
        return await handler(request)

    @web.middleware
    async def time_limit(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.query.get("watch", "false").lower() not in ("false", "0", "no"):  # has a limit of its own
            return await handler(request)
        try:
            async with asyncio.timeout(dependencies.limits.request_s):
                return await handler(request)
        except TimeoutError:
            raise MeshError(
                ErrorCode.TIMEOUT, f"not done within {dependencies.limits.request_s:g} s", subject=request.path
            ) from None

    return [log, errors, guard, time_limit]


def failure(error: MeshError, **details: object) -> web.Response:
    """The Status of an error."""
    headers = {"WWW-Authenticate": 'Bearer realm="gossamer"'} if error.code is ErrorCode.UNAUTHENTICATED else None
    if error.code is ErrorCode.UNAVAILABLE:
        headers = {"Retry-After": "1"}
    return web.json_response(status_object(error, details=details), status=ANSWERS[error.code].http, headers=headers)


def _http_failure(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """aiohttp's own refusals (no such path, method not allowed, body too large) as a Status."""
    if error.status < 400:
        raise error
    reason, code = _REASONS.get(error.status, (error.reason, ErrorCode.UNREADABLE))
    text = error.text or error.reason
    body = status_object(MeshError(code, f"{request.method} {request.path}: {text}"))
    body.update(code=error.status, reason=reason)
    allow = error.headers.get("Allow")
    return web.Response(
        text=json.dumps(body),
        status=error.status,
        content_type="application/json",
        headers={"Allow": allow} if allow else None,
    )

"""What the admin port answers: Envoy's read-only pages, drain and quit, and Consul's local registration API.

Owns:   paths, methods, forms.
Not:    HTTP itself (http), where the facts come from (the protocols below; agent.app connects them).
Source: Envoy's admin interface; Consul's agent API; decision 14: a key is never shown.
"""

import json
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote

from agent.admin.http import Request, Response
from agent.admin.totals import Totals
from mesh.errors import ErrorCode, MeshError

_STATUS = {
    ErrorCode.INVALID: 400,
    ErrorCode.UNREADABLE: 400,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNAVAILABLE: 503,
}
_SAID = {"pass": "passing", "warn": "warning", "fail": "critical"}


class Facts(Protocol):
    """What the pages show. Everything but `totals` is JSON."""

    @property
    def totals(self) -> Totals: ...
    def ready(self) -> tuple[bool, str]: ...
    def health(self) -> dict[str, Any]: ...
    def server_info(self) -> dict[str, Any]: ...
    def config_dump(self) -> dict[str, Any]: ...
    def client_status(self) -> dict[str, Any]: ...
    def clusters(self) -> list[dict[str, Any]]: ...
    def circuit_breakers(self) -> list[dict[str, Any]]: ...
    def listeners(self) -> list[dict[str, Any]]: ...
    def certs(self) -> dict[str, Any]: ...
    def drain(self) -> None: ...
    def quit(self) -> None: ...


class Registrations(Protocol):
    """Consul's agent API as far as it is served. Each raises MeshError."""

    def register(self, body: Any) -> None: ...
    def deregister(self, service_id: str) -> None: ...
    def services(self) -> dict[str, Any]: ...
    def checks(self) -> dict[str, Any]: ...
    def said(self, check_id: str, status: str, note: str) -> None: ...


Page = Callable[[Request], Response]


class Routes:
    """Answers a request of the admin port."""

    def __init__(self, facts: Facts, registrations: Registrations) -> None:
        self._facts = facts
        self._registrations = registrations
        self._pages: dict[tuple[str, str], Page] = {
            ("GET", "/"): self._index,
            ("GET", "/ready"): self._ready,
            ("GET", "/health"): lambda _: Response.json(facts.health()),
            ("GET", "/server_info"): lambda _: Response.json(facts.server_info()),
            ("GET", "/stats"): self._stats,
            ("GET", "/stats/prometheus"): self._prometheus,
            ("GET", "/config_dump"): self._config_dump,
            ("GET", "/clusters"): lambda _: Response.json({"clusters": facts.clusters()}),
            ("GET", "/circuit_breakers"): lambda _: Response.json({"circuit_breakers": facts.circuit_breakers()}),
            ("GET", "/listeners"): lambda _: Response.json({"listeners": facts.listeners()}),
            ("GET", "/certs"): lambda _: Response.json(facts.certs()),
            ("POST", "/drain"): self._drain,
            ("POST", "/quitquitquit"): self._quit,
            ("GET", "/v1/agent/services"): lambda _: Response.json(registrations.services()),
            ("GET", "/v1/agent/checks"): lambda _: Response.json(registrations.checks()),
            ("PUT", "/v1/agent/service/register"): self._register,
        }

    async def __call__(self, request: Request) -> Response:
        """The answer. A MeshError becomes its status with its message."""
        method = "GET" if request.method == "HEAD" else request.method
        page = self._pages.get((method, request.path)) or self._parameterised(method, request.path)
        if page is None:
            return self._no_page(request)
        try:
            return page(request)
        except MeshError as error:
            return Response.text(f"{error}\n", _STATUS.get(error.code, 500))

    def _parameterised(self, method: str, path: str) -> Page | None:
        if method != "PUT":
            return None
        parts = [unquote(part) for part in path.strip("/").split("/")]
        match parts:
            case ["v1", "agent", "service", "deregister", service_id]:
                return lambda _: self._done(lambda: self._registrations.deregister(service_id))
            case ["v1", "agent", "check", ("pass" | "warn" | "fail") as word, check_id]:
                return lambda request: self._done(
                    lambda: self._registrations.said(check_id, _SAID[word], request.query.get("note", "")[:1024])
                )
        return None

    def _no_page(self, request: Request) -> Response:
        allowed = sorted(method for method, path in self._pages if path == request.path)
        if allowed:
            return Response(status=405, body=b"Method Not Allowed\n", headers={"allow": ", ".join(allowed)})
        return Response.text(f"no page {request.path[:200]!r}; / lists them\n", 404)

    @staticmethod
    def _done(action: Callable[[], None]) -> Response:
        action()
        return Response()

    # --- pages ------------------------------------------------------------------------------------------------

    def _index(self, _: Request) -> Response:
        return Response.text("".join(f"{method} {path}\n" for method, path in sorted(self._pages)))

    def _ready(self, _: Request) -> Response:
        ready, why = self._facts.ready()
        return Response.text("LIVE\n" if ready else f"{why}\n", 200 if ready else 503)

    def _stats(self, request: Request) -> Response:
        if request.query.get("format") == "prometheus":
            return self._prometheus(request)
        return Response.text(self._facts.totals.as_text(request.query.get("filter", "")))

    def _config_dump(self, request: Request) -> Response:
        """`?format=csds`: as CSDS would have it."""
        as_csds = request.query.get("format") == "csds"
        return Response.json(self._facts.client_status() if as_csds else self._facts.config_dump())

    def _prometheus(self, _: Request) -> Response:
        body = self._facts.totals.as_prometheus().encode()
        return Response(body=body, content_type="text/plain; version=0.0.4; charset=utf-8")

    def _drain(self, _: Request) -> Response:
        self._facts.drain()
        return Response.text("OK\n")

    def _quit(self, _: Request) -> Response:
        self._facts.quit()
        return Response.text("OK\n")

    def _register(self, request: Request) -> Response:
        try:
            body = json.loads(request.body)
        except ValueError as error:
            raise MeshError(ErrorCode.UNREADABLE, f"the body is not JSON: {error}", subject="body") from error
        return self._done(lambda: self._registrations.register(body))

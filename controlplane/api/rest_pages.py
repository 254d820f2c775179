"""The pages beside the API: probes, /metrics, the documentation, a start page.

Owns:   /, /docs, /healthz, /livez, /readyz, /metrics.
Not:    /version and /openapi.json (rest_discovery), the HTML itself (html).
Invariants: what answers without a token (middleware.OPEN_PATHS) shows nothing of the mesh: the start page has figures
        only on a server that has no tokens.
"""

from functools import cache
from html import escape

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from controlplane.api import html, state_local
from controlplane.api.openapi import whole_document
from controlplane.api.rest_discovery import server_version
from controlplane.api.state_catalog import VIEWS
from controlplane.api.view import Dependencies

# Nothing on the pages may run or be framed, whatever stands in a name.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_EXAMPLE = """\
meshctl apply -f policies.yaml                                      # or kubectl --server=http://HOST apply -f
curl --data-binary @policies.yaml http://HOST/mesh/v1/batch         # many objects, one transaction
curl http://HOST/apis/networking.istio.io/v1/virtualservices        # objects, as Kubernetes has them
curl http://HOST/mesh/v1/proxies                                    # who has what
"""


class PageRoutes:
    """The handlers."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._view = dependencies.view
        self._registry = dependencies.registry
        self._has_tokens = dependencies.api_tokens is not None

    def routes(self) -> list[web.RouteDef]:
        """All of them, GET."""
        return [
            web.get("/", self.start),
            web.get("/docs", self.docs),
            web.get("/healthz", self.alive),
            web.get("/livez", self.alive),
            web.get("/readyz", self.ready),
            web.get("/metrics", self.metrics),
        ]

    async def alive(self, _: web.Request) -> web.Response:
        """200 while the process answers."""
        return web.Response(text="ok\n")

    async def ready(self, _: web.Request) -> web.Response:
        """200 when everything that must be up is; else 503. One line for each part."""
        parts = self._view.ready()
        lines = [f"[-] {name}: {reason}" if reason else f"[+] {name}: ok" for name, reason in parts.items()]
        is_ready = not any(parts.values())
        text = "\n".join([*lines, "ready" if is_ready else "not ready"]) + "\n"
        return web.Response(text=text, status=200 if is_ready else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus' text format."""
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def docs(self, _: web.Request) -> web.Response:
        """The documentation of everything that the server answers."""
        return _page(_documentation())

    async def start(self, request: web.Request) -> web.Response:
        """What this server is and where to go on."""
        facts = "" if self._has_tokens else self._facts()
        pages = {
            "/docs": "the API, documented",
            "/openapi.json": "the same for machines",
            "/metrics": "Prometheus",
            "/readyz": "is everything up?",
        }
        views = {f"/mesh/v1/{view.path}": view.summary for view in VIEWS.values() if not view.path_parameters}
        example = escape(_EXAMPLE.replace("HOST", request.host))
        return _page(
            html.page(
                "Gossamer",
                f"<h1>Gossamer control plane</h1><p class=soft>version {escape(server_version())}</p>{facts}"
                f"<h2>Use it</h2><pre>{example}</pre>"
                f"<h2>Look at the mesh</h2>{html.links(views)}<h2>Pages</h2>{html.links(pages)}",
            )
        )

    def _facts(self) -> str:
        mesh, proxies = self._view.mesh(), self._view.ledger().proxies()
        endpoints = state_local.endpoint_totals(mesh)
        problems = state_local.problems(self._view.conditions())
        rows = [
            ("nodes", str(len(mesh.nodes()))),
            ("services", str(len(mesh.services()))),
            (
                "endpoints",
                f"{endpoints['total']}, {endpoints['unhealthy']} unhealthy, {endpoints['ejected']} ejected",
            ),
            (
                "proxies of this replica",
                f"{len(proxies)}, {sum(proxy.sync == 'synced' for proxy in proxies)} in sync",
            ),
            ("revision", str(mesh.revision)),
        ]
        findings = html.table([(item["object"], item["type"], item["message"]) for item in problems[:20]])
        return html.table(rows) + (f"<h2>Needs attention</h2>{findings}" if problems else "")


@cache
def _documentation() -> str:
    return html.documentation(whole_document(server_version()))


def _page(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", charset="utf-8", headers=_HEADERS)

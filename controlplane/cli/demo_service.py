"""A small real HTTP service for the demo, the tests and the benches: it answers, can be made to fail, and can call on.

    GET  /health            200, or 503 while it is told to fail its health check
    GET  /users/{id}        who answered, and what the mesh told it about the caller
    GET  /orders/{id}       calls GET /users/{id} of `user-service` through the local agent and passes the answer on
    PUT  /behaviour         {"status": 500, "health": 200, "delay_s": 0}: how it answers from now on
    GET  /behaviour         the present behaviour and how many requests it has answered

Not: part of the mesh. It knows only that its agent's outbound port is an HTTP proxy port on loopback.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from dataclasses import asdict, dataclass

import aiohttp
from aiohttp import web

# The context headers that an application hands on; the mesh cannot join its inbound and outbound calls for it.
_CONTEXT = ("traceparent", "tracestate", "x-request-id")


@dataclass(slots=True)
class Behaviour:
    """`status` answers /users and /orders, `health` answers /health; `delay_s` comes before every answer."""

    status: int = 200
    health: int = 200
    delay_s: float = 0.0


class DemoService:
    """The handlers of one instance."""

    def __init__(self, *, name: str, version: str, instance: str, mesh_port: str) -> None:
        self._identity = {"service": name, "version": version, "instance": instance}
        self._mesh_port = mesh_port
        self._behaviour = Behaviour()
        self._answered = 0
        self._session: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """The routes, and a client session that lives as long as the application."""
        app = web.Application()
        app.router.add_get("/health", self.health)
        app.router.add_get("/behaviour", self.show_behaviour)
        app.router.add_put("/behaviour", self.change_behaviour)
        app.router.add_get("/orders/{id}", self.order)
        app.router.add_route("*", "/{path:.*}", self.user)
        app.cleanup_ctx.append(self._client)
        return app

    async def _client(self, _app: web.Application):  # type: ignore[no-untyped-def]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            self._session = session
            yield

    async def health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": self._behaviour.health}, status=self._behaviour.health)

    async def show_behaviour(self, _request: web.Request) -> web.Response:
        return web.json_response({**asdict(self._behaviour), "answered": self._answered})

    async def change_behaviour(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self._behaviour = Behaviour(
            status=int(wanted.get("status", 200)),
            health=int(wanted.get("health", 200)),
            delay_s=float(wanted.get("delay_s", 0)),
        )
        return await self.show_behaviour(request)

    async def user(self, request: web.Request) -> web.Response:
        body = await request.read()
        self._answered += 1
        if self._behaviour.delay_s:
            await asyncio.sleep(self._behaviour.delay_s)
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = {**self._identity, "path": request.path_qs, "received_bytes": len(body), "headers": headers}
        return web.json_response(answer, status=self._behaviour.status)

    async def order(self, request: web.Request) -> web.Response:
        assert self._session is not None
        self._answered += 1
        context = {name: request.headers[name] for name in _CONTEXT if name in request.headers}
        url = f"http://{self._mesh_port}/users/{request.match_info['id']}"
        try:
            async with self._session.get(url, headers={"Host": "user-service", **context}) as reply:
                user = await reply.json(content_type=None)
                return web.json_response({**self._identity, "user": user}, status=reply.status)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return web.json_response({**self._identity, "error": repr(error)}, status=502)


async def _serve(arguments: argparse.Namespace) -> None:
    service = DemoService(
        name=arguments.name,
        version=arguments.version,
        instance=arguments.instance,
        mesh_port=arguments.mesh_port,
    )
    runner = web.AppRunner(service.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, arguments.address, arguments.port).start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo-service", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", default="v1")
    parser.add_argument("--instance", required=True)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mesh-port", default="127.0.0.1:15001", help="the agent's outbound port, address:port")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A worker for tests of the supervisor: it speaks agent.ipc and answers every connection with its pid.

It accepts on the sockets that it is given as soon as a Commit knows their listener, and reports what it was told on
request: `GET /told` answers the names in its tables. `--deaf` makes it answer no Ping, `--slow` take a Commit late.
"""

import argparse
import asyncio
import json
import os
import socket
import sys
from typing import Any

from agent.ipc.channel import Channel
from agent.ipc.messages import (
    AddListener,
    Commit,
    Committed,
    Drain,
    Drained,
    HostState,
    Identities,
    Ping,
    Pong,
    Put,
    Ready,
    Remove,
    Welcome,
)
from agent.ipc.takeover import TakeoverPoint

ORPHAN_S = 20.0


class Stub:
    def __init__(self, options: argparse.Namespace) -> None:
        self._deaf = options.deaf
        self._commit_after_s = 0.3 if options.slow else 0.0
        self.done = asyncio.Event()
        self.tables: dict[str, set[str]] = {}
        self.sockets: dict[str, socket.socket] = {}
        self.accepting: set[str] = set()
        self.told: dict[str, Any] = {"identities": [], "ejected": []}
        self._channel = Channel(socket.socket(fileno=options.fd), self.on_message, self.on_closed)
        self._takeover = TakeoverPoint(
            socket.socket(fileno=options.takeover_fd),
            listeners=lambda: {name: sock.fileno() for name, sock in self.sockets.items()},
            on_message=self.on_message,
            on_closed=lambda _: None,
            on_successor=self._replace,
        )

    def _replace(self, channel: Channel) -> None:
        self._channel = channel

    def on_closed(self, reason: str) -> None:
        asyncio.get_running_loop().call_later(ORPHAN_S, self.done.set)

    def on_message(self, message: Any, descriptors: list[int]) -> None:
        match message:
            case Welcome():
                for descriptor in descriptors:
                    os.close(descriptor)
                self._channel.send(Ready(os.getpid()))
            case Put(kind, name, _):
                self.tables.setdefault(kind, set()).add(name)
            case Remove(kind, name):
                self.tables.get(kind, set()).discard(name)
            case AddListener(name):
                self.sockets[name] = socket.socket(fileno=descriptors[0])
            case Commit(version):
                asyncio.get_running_loop().call_later(self._commit_after_s, self._take, version)
            case Identities(key_pairs=pairs):
                self.told["identities"] = [pair.identity for pair in pairs]
            case HostState(cluster, host, ejected):
                (self.told["ejected"].append if ejected else self.told["ejected"].remove)([cluster, host])
            case Ping(token):
                if not self._deaf:
                    self._channel.send(Pong(token, 0.0))
            case Drain():
                for name in list(self.accepting):
                    self._stop(name)
                self._channel.send(Drained())
                self.done.set()

    def _take(self, version: int) -> None:
        self._commit()
        self._channel.send(Committed(version))

    def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        known = self.tables.get("listener", set())
        for name in [name for name in self.sockets if name not in known]:
            self._stop(name)
        for name in known & self.sockets.keys() - self.accepting:
            self.accepting.add(name)
            self.sockets[name].setblocking(False)
            loop.add_reader(self.sockets[name], self._accept, self.sockets[name])

    def _stop(self, name: str) -> None:
        sock = self.sockets.pop(name)
        self.accepting.discard(name)
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()

    def _accept(self, sock: socket.socket) -> None:
        try:
            connection, _ = sock.accept()
        except OSError:
            return
        connection.settimeout(2)
        asked = connection.recv(4096)
        value = {"pid": os.getpid(), "tables": {k: sorted(v) for k, v in self.tables.items()}, **self.told}
        body = json.dumps(value).encode() if b"GET /told" in asked else str(os.getpid()).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        connection.close()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--takeover-fd", type=int, required=True)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--slow", action="store_true")
    for flag in ("--access-log", "--log-level"):
        parser.add_argument(flag)
    parser.add_argument("--log-json", action="store_true")
    stub = Stub(parser.parse_args())
    await stub.done.wait()
    await asyncio.sleep(0.05)  # the last frame leaves


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

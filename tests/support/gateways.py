"""Clients of gateways: TLS to one address with whatever server name, load of that kind, and a TLS server behind."""

import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from controlplane.cli.local_mesh import Reply, wait_until
from tests.support.identities import TestAuthority
from tests.support.secrets import encoded


def secret(name: str, authority: TestAuthority, *hosts: str, namespace: str = "ingress", roots: str = "") -> str:
    """A Secret with a certificate for `hosts`, and with `roots`, if any, to verify clients by."""
    own = authority.issue(f"spiffe://outside.example/{name}", *hosts)
    pairs = {"tls.crt": own.chain_pem.decode(), "tls.key": own.key_pem.decode()} | ({"ca.crt": roots} if roots else {})
    data = ", ".join(f"{key}: {encoded(value)}" for key, value in pairs.items())
    head = (
        f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: kubernetes.io/tls\n"
    )
    return f"{head}data: {{{data}}}\n"


class _Connection(HTTPConnection):
    """HTTP over TLS to an address that is not the name that is asked for."""

    def __init__(self, address: str, context: ssl.SSLContext, name: str) -> None:
        super().__init__(address, timeout=15)
        self._context, self._name = context, name

    def connect(self) -> None:
        super().connect()
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self._name or None)


class Client:
    """Trusts `authority`; `own`: shows a certificate of that one, "" = none."""

    def __init__(self, folder: Path, authority: TestAuthority, own: TestAuthority | None = None) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(cadata=authority.trust_pem.decode())
        self.context.set_alpn_protocols(["http/1.1"])
        if own is not None:
            pair = own.issue("spiffe://outside.example/client")
            path = folder / f"client-{id(self)}.pem"
            path.write_bytes(pair.key_pem + pair.chain_pem)
            self.context.load_cert_chain(path)

    def get(self, address: str, host: str, path: str = "/", **headers: str) -> Reply:
        """Raises ssl.SSLError, OSError or HTTPException when there is no answer."""
        connection = _Connection(address, self.context, host)
        try:
            connection.request("GET", path, headers={"Host": host, **headers})
            answer = connection.getresponse()
            return Reply(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def outcome(self, address: str, host: str, path: str = "/") -> str:
        """The status, or `refused`."""
        try:
            return str(self.get(address, host, path).status)
        except (OSError, HTTPException):
            return "refused"

    def certificate(self, address: str, name: str) -> bytes:
        """The server's certificate, DER."""
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=15) as sock,
            self.context.wrap_socket(sock, server_hostname=name) as tls,
        ):
            return tls.getpeercert(binary_form=True) or b""


class TlsLoad:
    """Requests over TLS in threads: half of them on kept connections, half on a connection each.

    A kept connection that a drained filter chain has closed between two requests is opened again, as any client does.
    """

    def __init__(self, client: Client, address: str, host: str, *, connections: int = 4) -> None:
        self._client, self._address, self._host = client, address, host
        self._stop = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run, args=(number % 2 == 0,), daemon=True) for number in range(connections)
        ]

    def __enter__(self) -> "TlsLoad":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait(self, requests: int) -> None:
        """Until `requests` more have ended."""
        goal = self.total + requests
        wait_until(f"{requests} requests", lambda: self.total >= goal, timeout_s=60)

    @property
    def total(self) -> int:
        return sum(self.statuses.values()) + sum(self.errors.values())

    def _run(self, keep: bool) -> None:
        connection = _Connection(self._address, self._client.context, self._host)
        while not self._stop.is_set():
            try:
                connection.request("GET", "/", headers={"Host": self._host})
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
                if not keep:
                    connection.close()
            except (OSError, HTTPException) as error:
                connection.close()
                self.errors[repr(error)] += 1
            time.sleep(0.005)
        connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"service": "behind", "host": self.headers["Host"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        pass  # a client that goes away


@contextmanager
def server(folder: Path, address: str, authority: TestAuthority | None, *hosts: str) -> Iterator[int]:
    """An HTTP server, with TLS for `hosts` when there is an authority; its port."""
    made = _Server((address, 0), _Handler)
    if authority is not None:
        own = authority.issue("spiffe://outside.example/behind", *hosts)
        path = folder / f"behind-{made.server_address[1]}.pem"
        path.write_bytes(own.key_pem + own.chain_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield int(made.server_address[1])
    finally:
        made.shutdown()
        made.server_close()
        thread.join(10)

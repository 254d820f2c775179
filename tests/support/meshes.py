"""Meshes of real processes for the end-to-end and conformance suites, each on loopback addresses of its own."""

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from controlplane.cli.local_mesh import LocalMesh, LocalService

_numbers = itertools.count(1)


def worker_number() -> int:
    """0 without pytest-xdist, else the number of this test process (gw3 -> 3)."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


@contextmanager
def local_mesh(root: Path) -> Iterator[LocalMesh]:
    """A LocalMesh that no other test process and no other mesh of this one shares an address with."""
    subnet = f"127.{90 + worker_number()}.{next(_numbers) % 250 + 1}"
    with LocalMesh(root, subnet=subnet) as mesh:
        yield mesh


USER_V1 = LocalService(name="user-service", version="v1", port=3001)
USER_V2 = LocalService(name="user-service", version="v2", port=3002)
CALLER_PORT = 15100
ORDERS = LocalService(name="order-service", version="v1", port=3003, outbound_port=CALLER_PORT)

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: user-service}
spec:
  selector: {app: user-service}
  ports: [{protocol: TCP, port: 80, targetPort: 3001}]
"""
SUBSETS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: user-service-versions}
spec:
  host: user-service
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"""


def virtual_service(v1: int, v2: int, *, extra: str = "") -> str:
    """user-service split by weight; `extra` is YAML of the HTTP route, indented by four."""
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: user-service}}
spec:
  hosts: [user-service]
  http:
  - route:
    - destination: {{host: user-service, subset: v1}}
      weight: {v1}
    - destination: {{host: user-service, subset: v2}}
      weight: {v2}
{extra}"""


def documents(*texts: str) -> str:
    """One multi-document YAML text."""
    return "---\n".join(texts)


class Load:
    """Gentle, steady load in threads: `connections` loops of one request each `pause_s`.

    `statuses` counts answers, `errors` what went wrong by its kind and moment. With `reconnect` every request opens a
    connection of its own, so that a refused connection cannot hide behind a kept one.
    """

    def __init__(
        self, address: str, host: str, *, path: str = "/users/1", connections: int = 4, pause_s: float = 0.005,
        reconnect: bool = False,
    ) -> None:  # fmt: skip
        self._address, self._host, self._path = address, host, path
        self._pause_s, self._reconnect = pause_s, reconnect
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.longest_s = 0.0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(connections)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)

    @property
    def total(self) -> int:
        return sum(self.statuses.values()) + sum(self.errors.values())

    def wait(self, requests: int, *, timeout_s: float = 60.0) -> None:
        """Until `requests` more have ended."""
        goal, deadline = self.total + requests, time.monotonic() + timeout_s
        while self.total < goal:
            assert time.monotonic() < deadline, f"{self.total} of {goal} requests within {timeout_s} s"
            time.sleep(0.01)

    def _run(self) -> None:
        connection = HTTPConnection(self._address, timeout=15)
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                connection.request("GET", self._path, headers={"Host": self._host})
                reply = connection.getresponse()
                reply.read()
                with self._lock:
                    self.statuses[reply.status] += 1
                if self._reconnect:
                    connection.close()
            except (OSError, HTTPException) as error:
                connection.close()
                with self._lock:
                    self.errors[type(error).__name__] += 1
            with self._lock:
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
            time.sleep(self._pause_s)
        connection.close()


def shares(call: Callable[[], str], count: int) -> Counter[str]:
    """How often each answer came in `count` calls."""
    return Counter(call() for _ in range(count))


def assert_share(counts: Counter[str], key: str, share: float) -> None:
    """The share of `key` is what policy says, within five standard deviations of a binomial draw."""
    total = sum(counts.values())
    allowed = 5 * (share * (1 - share) * total) ** 0.5
    assert abs(counts[key] - share * total) <= allowed, f"{dict(counts)}: expected {share:.0%} {key} of {total}"

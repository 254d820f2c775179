"""Generate the Python code of our .proto files, and type stubs for the xDS messages that xds-protos ships without.

`python proto/generate.py code`   writes mesh/api/v1 and controlplane/store/etcd/wire (committed, never edited).
`python proto/generate.py check`  exits 1 when the committed code is not what the .proto files give.
`python proto/generate.py stubs`  writes typings/ for the installed xds-protos (not committed).
"""

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ("mesh/api/v1", "controlplane/store/etcd/wire")
# The packages of xds-protos whose messages we use; what they import is followed.
STUBBED = (
    "envoy.admin.v3", "envoy.config.accesslog.v3", "envoy.config.bootstrap.v3", "envoy.config.cluster.v3",
    "envoy.config.core.v3", "envoy.config.endpoint.v3", "envoy.config.listener.v3", "envoy.config.route.v3",
    "envoy.config.trace.v3", "envoy.config.rbac.v3", "envoy.extensions.access_loggers.file.v3",
    "envoy.extensions.filters.http.cors.v3", "envoy.extensions.filters.http.ext_authz.v3",
    "envoy.extensions.filters.http.fault.v3", "envoy.extensions.filters.http.jwt_authn.v3",
    "envoy.extensions.filters.http.rbac.v3", "envoy.extensions.filters.network.rbac.v3",
    "envoy.extensions.path.match.uri_template.v3",
    "envoy.extensions.filters.http.local_ratelimit.v3", "envoy.extensions.filters.http.ratelimit.v3",
    "envoy.extensions.filters.http.router.v3", "envoy.extensions.filters.http.upstream_codec.v3",
    "envoy.extensions.filters.listener.tls_inspector.v3",
    "envoy.extensions.filters.network.http_connection_manager.v3", "envoy.extensions.filters.network.tcp_proxy.v3",
    "envoy.extensions.rate_limit_descriptors.expr.v3",
    "envoy.extensions.retry.host.previous_hosts.v3", "envoy.extensions.retry.priority.previous_priorities.v3",
    "envoy.extensions.transport_sockets.raw_buffer.v3",
    "envoy.extensions.transport_sockets.tls.v3", "envoy.extensions.upstreams.http.v3",
    "envoy.service.auth.v3", "envoy.service.cluster.v3", "envoy.service.discovery.v3", "envoy.service.endpoint.v3",
    "envoy.service.listener.v3", "envoy.service.load_stats.v3", "envoy.service.ratelimit.v3",
    "envoy.service.route.v3",
    "envoy.service.secret.v3", "envoy.service.status.v3", "envoy.type.matcher.v3", "envoy.type.v3", "google.rpc",
)  # fmt: skip


def _protoc(*arguments: str) -> None:
    # protoc looks for its plug-ins (protoc-gen-mypy) on PATH: those beside this Python are meant.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PATH": path})


def generate(target: Path) -> None:
    """Generate our own code below `target`."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto").rglob("*.proto"))
    _protoc(
        "-Iproto",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
        *sources,
    )


def check() -> int:
    """Compare the committed code with a fresh generation."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = [
            str(made.relative_to(scratch))
            for made in sorted(Path(scratch).rglob("*.py*"))
            if not (ROOT / made.relative_to(scratch)).exists()
            or (ROOT / made.relative_to(scratch)).read_bytes() != made.read_bytes()
        ]
    for name in stale:
        print(f"{name} is not what the .proto files give: run make proto", file=sys.stderr)
    return 1 if stale else 0


def stubs() -> None:
    """Write typings/ from the descriptors of the installed modules."""
    from google.protobuf import descriptor_pb2
    from google.protobuf.descriptor import FileDescriptor

    seen: dict[str, FileDescriptor] = {}

    def follow(descriptor: FileDescriptor) -> None:
        if descriptor.name not in seen:
            seen[descriptor.name] = descriptor
            for dependency in descriptor.dependencies:
                follow(dependency)

    for package in STUBBED:
        module = importlib.import_module(package)
        for info in pkgutil.iter_modules(module.__path__):
            if info.name.endswith("_pb2"):
                follow(importlib.import_module(f"{package}.{info.name}").DESCRIPTOR)
    files = descriptor_pb2.FileDescriptorSet()
    ordered: list[str] = []

    def add(name: str) -> None:
        if name not in ordered:
            for dependency in seen[name].dependencies:
                add(dependency.name)
            ordered.append(name)

    for name in sorted(seen):
        add(name)
    for name in ordered:
        seen[name].CopyToProto(files.file.add())
    out = ROOT / "typings"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with tempfile.NamedTemporaryFile(suffix=".bin") as scratch:
        scratch.write(files.SerializeToString())
        scratch.flush()
        # google.protobuf's own messages have stubs of their own (types-protobuf).
        names = [name for name in ordered if not name.startswith("google/protobuf/")]
        _protoc(f"--descriptor_set_in={scratch.name}", f"--mypy_out=quiet:{out}", *names)
    print(f"typings: {len(names)} stubs")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["code"]:
            generate(ROOT)
        case ["check"]:
            sys.exit(check())
        case ["stubs"]:
            stubs()
        case _:
            sys.exit(__doc__)

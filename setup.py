"""The build. Pure Python unless GOSSAMER_COMPILE=1: then mypyc makes the hot packages of the agent native.

Owns:   which modules are compiled, and how.
Not:    what is installed (pyproject.toml).
Source: docs/performance.md, "The compiled build".
Invariants: both builds come from one typed source; a compiled module lies beside its .py file and is found before it;
        nothing is ever compiled into the source tree, where it would hide what is edited.
"""

import os
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# What a request passes through, and the listener, whose objects are in the same timer wheel.
HOT = ("model", "stats", "codec", "router", "filters", "cluster", "upstream", "proxy", "listener")


class BuildTree(build_py):
    """Copies the packages, and drops what a build before has left of modules that are gone."""

    def run(self) -> None:
        super().run()
        for made in (*Path(self.build_lib).rglob("*.py"), *Path(self.build_lib).rglob("*.so")):
            source = made.relative_to(self.build_lib).with_name(f"{made.name.partition('.')[0]}.py")
            if len(source.parts) > 1 and not source.is_file():
                made.unlink()


class BuildNative(build_ext):
    """Compiles what has changed, as many files at a time as there are processors; setuptools does all, one by one."""

    def build_extension(self, ext: Extension) -> None:
        headers = max(map(_written, ext.depends), default=0.0)
        self.compiler.compile = lambda *given, **named: self._compile_changed(headers, *given, **named)
        super().build_extension(ext)

    def _compile_changed(self, headers: float, sources: list[str], **named: Any) -> list[str]:
        tool = self.compiler
        given = {name: named.get(name) for name in ("output_dir", "macros", "include_dirs")}
        prepared = tool._setup_compile(
            *given.values(), sources, named.get("depends"), named.get("extra_postargs") or []
        )
        _, objects, postargs, preprocessor, build = prepared
        arguments = tool._get_cc_args(preprocessor, named.get("debug"), named.get("extra_preargs"))

        def compile_one(made: str) -> None:
            source, kind = build[made]
            if _written(made) <= max(_written(source), headers):
                tool._compile(made, source, kind, arguments, postargs, preprocessor)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, objects))
        return list(objects)


def _written(path: str) -> float:
    """When it was written; 0 = not at all."""
    return Path(path).stat().st_mtime if Path(path).exists() else 0.0


def missing() -> str:
    """What a compiled build needs and this machine lacks, or ""."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return (
            f"no C compiler: {compiler!r} is not found; install one (Debian: apt-get install gcc libc6-dev) or set CC"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        return f"no headers of Python: {header} is not found; install them (Debian: apt-get install python3-dev)"
    return ""


def compiled() -> list[Extension]:
    """The native modules."""
    lacking = missing()
    if lacking:
        sys.exit(f"{lacking}. The pure build needs neither: the same code, slower.")
    try:
        from mypyc.build import mypycify
    except ImportError:
        sys.exit("no mypyc: install gossamer[dev], and build without isolation (pip wheel --no-build-isolation .)")
    files = [str(path) for package in HOT for path in sorted(Path("agent", package).glob("[!_]*.py"))]
    made: list[Extension] = mypycify(
        ["--config-file", "pyproject.toml", *files],
        opt_level="3",
        multi_file=True,
        target_dir="build/mypyc",
        group_name="gossamer_agent",
    )
    return made


os.chdir(Path(__file__).parent)
setup(
    cmdclass={"build_py": BuildTree, "build_ext": BuildNative},
    ext_modules=compiled() if os.environ.get("GOSSAMER_COMPILE") == "1" else [],
)

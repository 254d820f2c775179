"""The views of all connected proxies, compiled once per scope; says who is concerned by a new MeshState. Pure.

Owns:   which proxy is on which stream and in which scope; the current MeshState as far as it is compiled; which proxies
        are given the candidate of a rollout.
Not:    when to publish (controlplane.reconcile), sending (controlplane.discovery).
Invariants: one compilation per distinct scope and MeshState; a stream whose two parts are the same objects as
        before gets no update.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from controlplane.compiler.types import Compiled, Condition
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import Proxy, ProxyScope
from controlplane.model.rollout_overlay import Candidate
from controlplane.snapshot.view import View


class Compiling(Protocol):
    """controlplane.compiler.compile.Compiler, as far as it is used here."""

    def compile_scope(self, mesh: MeshState, scope: ProxyScope) -> Compiled: ...
    def compile_proxy(self, mesh: MeshState, proxy: Proxy) -> Compiled: ...
    def conditions(self, mesh: MeshState) -> tuple[Condition, ...]: ...
    def sibling(self) -> "Compiling":
        """One for a second MeshState at the same time: what both compile alike is the same Resource."""
        ...


@dataclass(frozen=True, slots=True)
class Update:
    """A stream's new view; the change came with the revisions in (after, view.revision]."""

    stream: int
    view: View
    after: int


class SnapshotCache:
    """Views by stream."""

    def __init__(self, compiler: Compiling, mesh: MeshState) -> None:
        self._compiler = compiler
        self.mesh = mesh
        self.candidate: Candidate | None = None
        self._candidate_compiler: Compiling | None = None
        self._after = 0  # revision up to which every stream has its view
        self._proxies: dict[int, Proxy] = {}
        self._views: dict[int, View] = {}

    def connect(self, stream: int, proxy: Proxy) -> View:
        """Add a stream; its view is of the current MeshState."""
        self._proxies[stream] = proxy
        view = self._views[stream] = self._compile(proxy)
        return view

    def disconnect(self, stream: int) -> None:
        self._proxies.pop(stream, None)
        self._views.pop(stream, None)

    def view_for(self, proxy: Proxy) -> View:
        """The view that `proxy` would get now, connected or not."""
        return self._compile(proxy)

    def view_of(self, node: str) -> View | None:
        """The view of the node's first stream, for config dumps; None when the node is not connected here."""
        for stream, proxy in self._proxies.items():
            if proxy.id == node:
                return self._views[stream]
        return None

    def views(self) -> dict[int, View]:
        """The view of every stream."""
        return dict(self._views)

    def view_on(self, stream: int) -> View | None:
        """The view of a stream; None when it has ended."""
        return self._views.get(stream)

    def proxy_of(self, node: str) -> Proxy | None:
        """The proxy of the node's first stream; None when the node is not connected here."""
        return next((proxy for proxy in self._proxies.values() if proxy.id == node), None)

    def connected(self) -> dict[str, Proxy]:
        """The proxies by node; of a node with several streams the first."""
        found: dict[str, Proxy] = {}
        for proxy in self._proxies.values():
            found.setdefault(proxy.id, proxy)
        return found

    def sides(self, stream: int) -> tuple[Proxy, View, View] | None:
        """The stream's proxy, its view without the candidate and with it; None without a candidate or stream."""
        proxy = self._proxies.get(stream)
        if proxy is None or self.candidate is None or self._candidate_compiler is None:
            return None
        staged = _view(self._candidate_compiler, self.candidate.mesh, proxy)
        return proxy, _view(self._compiler, self.mesh, proxy), staged

    def advance(self, mesh: MeshState, candidate: Candidate | None = None) -> None:
        """Use `mesh`, and `candidate` for whom it stages, from now on: new streams see it at once, present ones by
        `refresh`."""
        self.mesh, self.candidate = mesh, candidate
        if candidate is None:
            self._candidate_compiler = None
        elif self._candidate_compiler is None:
            # Scopes of its own: one that went to and fro between two states would compile their difference each time.
            self._candidate_compiler = self._compiler.sibling()

    def refresh(self) -> Iterator[Update]:
        """Compile for every stream and give those that have something new. The caller may pause between two."""
        for stream in tuple(self._proxies):
            proxy = self._proxies.get(stream)
            if proxy is None:  # it left while the caller paused
                continue
            view = self._compile(proxy)
            before = self._views[stream]
            if view.shared is not before.shared or view.own is not before.own:
                self._views[stream] = view
                yield Update(stream, view, self._after)
        self._after = self.mesh.revision

    def _compile(self, proxy: Proxy) -> View:
        candidate, compiler = self.candidate, self._candidate_compiler
        if candidate is not None and compiler is not None and candidate.overlay.stages(proxy.id):
            return _view(compiler, candidate.mesh, proxy)
        return _view(self._compiler, self.mesh, proxy)


def _view(compiler: Compiling, mesh: MeshState, proxy: Proxy) -> View:
    shared = compiler.compile_scope(mesh, mesh.scope_of(proxy))
    return View(mesh.revision, shared, compiler.compile_proxy(mesh, proxy))

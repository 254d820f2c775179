"""The ADS session that this node begins with.

Owns:   which protocol it speaks, what it asks for always, what it holds from the disk, whose that is.
Not:    the session's rules (agent.xds.session), writing the disk (config_flow), what is usable (`usable`).
Source: decision 35; design section 5.
Invariants: what one foreign server said is never served in the name of another; only ours is asked for the mesh's
        roots.
"""

from collections.abc import Callable

from envoy.config.core.v3.base_pb2 import Node

from agent.settings import Settings
from agent.xds import known_good
from agent.xds.delta import DeltaSession
from agent.xds.resources import Decode, Decoded
from agent.xds.session import AdsSession
from agent.xds.sotw import SotwSession
from mesh.logs import get_logger
from mesh.xds import type_url
from mesh.xds.names import TRUST_SECRET

_log = get_logger(__name__)


def owner(settings: Settings) -> str:
    """Whose last known good it is: of a node, and of a foreign server also whose word."""
    name = settings.node.name
    return name if settings.control_plane.is_ours else f"{name} at {settings.control_plane.address}"


def make_session(settings: Settings, node: Node, decode: Decode, usable: Callable[[Decoded], str]) -> AdsSession:
    """A session that holds the last known good. `usable`: why a resource cannot be used, "" when it can."""
    known = known_good.load(settings.state_dir, owner(settings), decode)
    for problem in known.problems:
        _log.warning("a part of the last known good is not used", reason=problem)
    make = DeltaSession if settings.control_plane.protocol == "delta" else SotwSession
    always = {type_url.SECRET: frozenset({TRUST_SECRET})} if settings.control_plane.is_ours else {}
    return make(node, decode, known.resources, always=always, usable=usable)

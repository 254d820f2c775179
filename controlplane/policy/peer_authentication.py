"""PeerAuthentication: whether a workload takes mTLS, plaintext or both.

Owns:   the shape. How mesh, namespace, workload and port compose (2.5): controlplane.compiler.
Source: istio.io/api security/v1 peer_authentication.proto.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from controlplane.policy.frozen import FrozenMap
from controlplane.policy.scalars import FREEZE, UInt32, enum_parser
from controlplane.policy.selector import WorkloadSelector
from controlplane.policy.spec import Spec


class MutualTLSMode(StrEnum):
    """UNSET inherits from the wider policy; the mesh's default is PERMISSIVE."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class MutualTLS(Spec):
    """The mode."""

    mode: Annotated[MutualTLSMode, enum_parser(MutualTLSMode)] = MutualTLSMode.UNSET


_NO_PORTS: FrozenMap[int, MutualTLS] = FrozenMap()


class PeerAuthentication(Spec):
    """`port_level_mtls` is by the workload's own port and needs a selector."""

    selector: WorkloadSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: Annotated[Mapping[UInt32, MutualTLS], FREEZE] = _NO_PORTS

    @property
    def mode(self) -> MutualTLSMode:
        """The mode for all ports; UNSET inherits."""
        return MutualTLSMode.UNSET if self.mtls is None else self.mtls.mode

    @property
    def selects_workloads(self) -> bool:
        """Whether it is for some workloads only."""
        return self.selector is not None and bool(self.selector.match_labels)

    def port_mode(self, port: int) -> MutualTLSMode:
        """The mode of one port; UNSET inherits."""
        level = self.port_level_mtls.get(port)
        return MutualTLSMode.UNSET if level is None else level.mode

"""Analysis of a mesh: every finding about every object, with its code, severity and field. Pure.

Owns:   conditions and hints as findings; what can be said when only files are known.
Not:    finding what conditions say (findings), the catalogue (messages), files and their lines (the CLI).
Source: control-plane.md 2.6: the same findings stand on stored objects as conditions. Hints, which ask for no
        attention, are for analysis alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from controlplane.compiler.compile import Findings
from controlplane.compiler.messages import CATALOGUE, Severity, message_of
from controlplane.compiler.route_reach import ineffective_matches
from controlplane.compiler.types import Condition
from controlplane.model.mesh_state import MeshState
from controlplane.policy.kinds import SERVICE, VIRTUAL_SERVICE
from controlplane.policy.objects import PolicyObject
from controlplane.policy.protocols import Protocol
from controlplane.policy.service import Service
from controlplane.policy.virtual_service import VirtualService
from mesh.vocabulary import ObjectRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing about one object. `path` is empty when it is about the object as a whole."""

    code: str
    name: str
    severity: Severity
    ref: ObjectRef
    message: str
    path: str = ""

    @property
    def order(self) -> tuple[int, str, str, str, str]:
        """Sorts the worst first."""
        return self.severity.rank, self.code, str(self.ref), self.path, self.message


def analyse(mesh: MeshState, *, only_files: bool = False) -> tuple[Finding, ...]:
    """Every finding, the worst first. O(mesh).

    `only_files`: the mesh is what some files say. Then nothing is said that depends on instances, and a host that is
    not defined is no error, since a registration may make it.
    """
    found = [finding_of(item) for item in Findings().each(mesh)]
    found += (hint for _, item in sorted(mesh.objects.items(), key=lambda pair: str(pair[0])) for hint in hints(item))
    if only_files:
        found = [_without_registrations(item) for item in found if not CATALOGUE[item.code].instances]
    return ordered(found)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Without duplicates, the worst first."""
    return tuple(sorted(set(findings), key=lambda item: item.order))


def finding_of(condition: Condition) -> Finding:
    """A condition as a finding."""
    message = message_of(condition)
    return Finding(
        code=message.code,
        name=message.name,
        severity=message.severity,
        ref=condition.ref,
        message=condition.message,
        path=condition.path,
    )


def _without_registrations(finding: Finding) -> Finding:
    if not (finding.code in ("IST0101", "IST0174") and finding.path.endswith((".host", ".name"))):
        return finding
    return Finding(
        code=finding.code,
        name=finding.name,
        severity=Severity.WARNING,
        ref=finding.ref,
        message=f"{finding.message} in these files",
        path=finding.path,
    )


def hints(item: PolicyObject) -> Iterator[Finding]:
    """What could be clearer about one object."""
    if item.kind is VIRTUAL_SERVICE and not item.wants_merge:
        for (rule, match), (other_rule, other) in ineffective_matches(item.spec_as(VirtualService)):
            other_path = f"spec.http[{other_rule}].match[{other}]"
            said = f"it is never used: {other_path} takes its requests"
            yield _hint("IST0131", item, said, f"spec.http[{rule}].match[{match}]")
    elif item.kind is SERVICE:
        for index, port in enumerate(item.spec_as(Service).ports):
            if port.effective_protocol is Protocol.UNSUPPORTED:
                said = f"port {port.port} is taken as HTTP: name it http, http2, grpc or tcp, or set appProtocol"
                yield _hint("IST0118", item, said, f"spec.ports[{index}]")


def _hint(code: str, item: PolicyObject, message: str, path: str) -> Finding:
    known = CATALOGUE[code]
    return Finding(code=code, name=known.name, severity=known.severity, ref=item.ref, message=message, path=path)

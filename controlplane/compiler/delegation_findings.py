"""What of a VirtualService's delegates has no effect.

Source: control-plane.md 2.3.12; controlplane.model.delegation.
"""

from collections.abc import Iterator

from controlplane.compiler.types import Condition
from controlplane.model.delegation import delegate_key, joined_rule, with_full_gateways
from controlplane.policy.http_route import HTTPRoute
from controlplane.policy.objects import PolicyObject
from controlplane.policy.virtual_service import VirtualService


def delegation_findings(rule: PolicyObject) -> Iterator[Condition]:
    """Of a VirtualService that is joined of several: delegates that are not there, and rules that lie outside."""
    if not rule.parts:
        return
    root, *delegates = rule.parts
    known = {(own.metadata.namespace, own.metadata.name): own for own in delegates}
    for index, http in enumerate(root.spec_as(VirtualService).http):
        if http.delegate is None:
            continue
        namespace, name = key = delegate_key(root, http)
        path = f"spec.http[{index}].delegate"
        if key in known:
            yield from _outside(root, f"spec.http[{index}]", http, known[key])
        else:
            message = (
                f"{path}: there is no VirtualService {namespace}/{name} without hosts that is exported to "
                f"{root.metadata.namespace}"
            )
            yield Condition(
                root.ref, "ReferencedResourceNotFound", "True", "UnknownDelegate", message, "IST0101", path
            )  # fmt: skip


def _outside(root: PolicyObject, path: str, http: HTTPRoute, delegate: PolicyObject) -> Iterator[Condition]:
    outer = with_full_gateways(http, root)
    for index, own in enumerate(delegate.spec_as(VirtualService).http):
        if joined_rule(outer, with_full_gateways(own, delegate)) is None:
            message = (
                f"spec.http[{index}] is left out below {path} of {root.ref}: a match of it does not lie within those "
                "of that rule"
            )
            yield Condition(
                delegate.ref, "NotEnforced", "True", "OutsideOfRoot", message, path=f"spec.http[{index}].match"
            )  # fmt: skip

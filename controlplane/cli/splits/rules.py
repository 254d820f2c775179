"""The http rule of a VirtualService that splits a service's requests: which one it is, and its edit. Pure.

Owns:   the choice of the VirtualService and the rule, weights, mirrors, the rule for a header.
Not:    subsets and their instances (subsets), what is asked for (wanted).

Which rule: the one that --route names; else the one that takes every request that no rule before it took; where there
is none, or it does not route to the service, the only one that does. Everything else of the rule, the other rules and
the rest of the VirtualService stay as they are. A rule of another shape is refused, never bent.
"""

import copy
from collections.abc import Sequence
from typing import Any

from controlplane.cli.splits.target import Target
from controlplane.cli.splits.wanted import WHOLE, Wanted
from controlplane.cli.state import Item
from controlplane.policy.http_route import HTTPRoute
from controlplane.policy.kinds import VIRTUAL_SERVICE
from mesh.errors import ErrorCode, MeshError

_OTHER_ACTIONS = {"redirect": "redirects", "directResponse": "answers by itself", "delegate": "delegates"}
_OLD_MIRROR = ("mirror", "mirrorPercent", "mirrorPercentage")


def virtual_service_of(target: Target) -> Item | None:
    """The one that holds for the service, None when there is none. Raises INVALID for several."""
    found = [item for item in target.virtual_services if _is_for(item, target)] or list(target.virtual_services)
    if len(found) > 1:
        names = ", ".join(name_of(item) for item in found)
        raise MeshError(
            ErrorCode.INVALID, f"found VirtualServices {names}, expected one", subject=target.host,
            hint="--virtual-service names the one to take",
        )  # fmt: skip
    return found[0] if found else None


def _is_for(item: Item, target: Target) -> bool:
    namespace = item["metadata"]["namespace"]
    return any(target.is_named(host, namespace) for host in item["spec"].get("hosts", ()))


def new_virtual_service(target: Target) -> Item:
    """One that does what the mesh does without any."""
    return {
        "apiVersion": VIRTUAL_SERVICE.storage_api_version,
        "kind": VIRTUAL_SERVICE.kind,
        "metadata": {"name": target.name, "namespace": target.namespace},
        "spec": {"hosts": [target.short], "http": [{"route": [{"destination": {"host": target.short}}]}]},
    }


def name_of(item: Item) -> str:
    """`default/reviews`."""
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def called(item: Item, index: int) -> str:
    """`http[0]`, with the rule's name when it has one."""
    name = item["spec"]["http"][index].get("name", "")
    return f"http[{index}] {name}".rstrip()


def chosen(item: Item, target: Target, route: str = "") -> int:
    """The index of the rule that is edited. Raises INVALID."""
    http = item["spec"].get("http", ())
    if route:
        return _named(item, route)
    own = [index for index, rule in enumerate(http) if _routes_to(rule, item, target)]
    rest = next((index for index, rule in enumerate(http) if HTTPRoute.model_validate(rule).is_catch_all), None)
    if rest is not None and rest in own:
        return rest
    if len(own) == 1:
        return own[0]
    raise _refusal(item, _why_none(item, own, rest, target), hint="--route names the one to edit" if own else "")


def _named(item: Item, route: str) -> int:
    http = item["spec"].get("http", ())
    found = [index for index, rule in enumerate(http) if route in (rule.get("name"), f"http[{index}]")]
    if len(found) == 1:
        return found[0]
    known = ", ".join(called(item, index) for index in range(len(http))) or "no http rule"
    raise _refusal(item, f"found {len(found)} rules {route!r}, expected one of {known}")


def _routes_to(rule: Item, item: Item, target: Target) -> bool:
    namespace = item["metadata"]["namespace"]
    return any(target.is_named(part["destination"]["host"], namespace) for part in rule.get("route", ()))


def _why_none(item: Item, own: Sequence[int], rest: int | None, target: Target) -> str:
    if own:
        names = ", ".join(called(item, index) for index in own)
        return f"rules {names} route to {target.host}, and none of them takes all other requests"
    http = item["spec"].get("http", ())
    if rest is not None:
        action = next((word for name, word in _OTHER_ACTIONS.items() if name in http[rest]), "routes elsewhere")
        return f"no rule routes to {target.host}; {called(item, rest)}, which takes the other requests, {action}"
    return f"no http rule routes to {target.host}"


def edited(item: Item, target: Target, wanted: Wanted, index: int) -> tuple[Item, int]:
    """The VirtualService with what is wanted, and the index of the rule that has it (-1 = removed). Raises INVALID."""
    _check(item, target, index)
    after: Item = copy.deepcopy(item)
    http = after["spec"]["http"]
    if wanted.headers:
        match = _matches(item, wanted, index)
        index, found = _rule_for(http, match, index)
        if wanted.remove:
            return _removed(after, index, found=found)
        if found:
            _check(after, target, index)
        else:
            name = _header_name(item, wanted, index)
            http.insert(index, {**copy.deepcopy(http[index]), "name": name, "match": match})
    rule = http[index]
    if wanted.weights:
        rule["route"] = _split(item, target, rule["route"], wanted)
    if wanted.mirror or wanted.no_mirror:
        _mirror(after, rule, target, wanted)
    return after, index


def _check(item: Item, target: Target, index: int) -> None:
    rule, namespace = item["spec"]["http"][index], item["metadata"]["namespace"]
    for name, word in _OTHER_ACTIONS.items():
        if name in rule:
            other = rule[name] if name == "delegate" else {}
            hint = "--virtual-service names the one that it delegates to" if other else ""
            raise _refusal(item, f"rule {called(item, index)} {word}, expected a route", hint=hint)
    hosts = [part["destination"]["host"] for part in rule.get("route", ())]
    others = [host for host in hosts if not target.is_named(host, namespace)]
    if others:
        raise _refusal(item, f"rule {called(item, index)} routes to {', '.join(others)}, expected only {target.host}")


def _split(item: Item, target: Target, route: Sequence[Item], wanted: Wanted) -> list[Item]:
    """Known destinations keep what they have; those that are not named get nothing."""
    found: dict[str, Item] = {}
    for part in route:
        subset = part["destination"].get("subset", "")
        if subset in found:
            raise _refusal(item, f"subset {subset or '(none)'} stands twice in the rule, expected once")
        found[subset] = part
    whole = found.pop("", None)
    if whole is not None and "headers" in whole:
        raise _refusal(item, "the destination without a subset has headers, which a subset would lose")
    like = {key: value for key, value in route[0]["destination"].items() if key != "subset"}
    kept = [{**part, "weight": wanted.weights.get(subset, 0)} for subset, part in found.items()]
    added = [
        {"destination": {**like, "subset": subset}, "weight": weight}
        for subset, weight in wanted.weights.items()
        if subset not in found
    ]
    return [*kept, *added]


def _mirror(item: Item, rule: Item, target: Target, wanted: Wanted) -> None:
    """Copies to the service itself are replaced; those to other services stay."""
    namespace = item["metadata"]["namespace"]
    old = rule.get("mirror")
    if old is not None and target.is_named(old["host"], namespace):
        for name in _OLD_MIRROR:
            rule.pop(name, None)
    elif old is not None and wanted.mirror:
        raise _refusal(item, f"the rule has a mirror to {old['host']}", hint="write it as mirrors, which takes several")
    others = [part for part in rule.pop("mirrors", ()) if not target.is_named(part["destination"]["host"], namespace)]
    if wanted.mirror:
        like = {key: value for key, value in rule["route"][0]["destination"].items() if key != "subset"}
        mirror: Item = {"destination": {**like, "subset": wanted.mirror.subset}}
        if wanted.mirror.percent != WHOLE:
            mirror["percentage"] = {"value": wanted.mirror.percent}
        others.append(mirror)
    if others:
        rule["mirrors"] = others


# --- the rule for a header


def _matches(item: Item, wanted: Wanted, index: int) -> list[Item]:
    """The rule's own matches, each with the headers added."""
    found = []
    for match in item["spec"]["http"][index].get("match") or [{}]:
        own = match.get("headers", {})
        twice = next((name for name in wanted.headers if name in own), None)
        if twice is not None:
            raise _refusal(item, f"rule {called(item, index)} matches header {twice} already")
        added = {name: {"exact": value} for name, value in wanted.headers.items()}
        found.append({**match, "headers": {**own, **added}})
    return found


def _rule_for(http: Sequence[Item], match: Sequence[Item], index: int) -> tuple[int, bool]:
    """Where the rule with these matches is, before the one that it is split off; else where it is put."""
    for number, rule in enumerate(http[:index]):
        if rule.get("match") == match:
            return number, True
    return index, False


def _header_name(item: Item, wanted: Wanted, index: int) -> str:
    base = item["spec"]["http"][index].get("name") or item["metadata"]["name"]
    return "-".join([base, *(f"{name}-{value}" for name, value in wanted.headers.items())])[:100]


def _removed(item: Item, index: int, *, found: bool) -> tuple[Item, int]:
    if not found:
        raise _refusal(item, "no rule matches exactly these headers")
    del item["spec"]["http"][index]
    return item, -1


# --- what remains elsewhere


def elsewhere(item: Item, target: Target, wanted: Wanted, index: int) -> list[str]:
    """The other rules that send requests of the service to subsets that are not wanted: one line each."""
    found = []
    for number, rule in enumerate(item["spec"]["http"]):
        if number == index or not _routes_to(rule, item, target):
            continue
        subsets = [part["destination"].get("subset", "") for part in weighted(rule) if part["weight"]]
        others = [subset or "all" for subset in subsets if not wanted.weights.get(subset)]
        if others:
            found.append(f"rule {called(item, number)} still sends requests to {', '.join(others)}")
    return found


def weighted(rule: Item) -> list[Item]:
    """The destinations of a rule, each with the weight that takes effect."""
    route: list[Any] = rule.get("route", [])
    if len(route) == 1:
        return [{**route[0], "weight": WHOLE}]
    return [{**part, "weight": part.get("weight", 0)} for part in route]


def _refusal(item: Item, message: str, hint: str = "") -> MeshError:
    return MeshError(ErrorCode.INVALID, message, subject=f"VirtualService {name_of(item)}", hint=hint)

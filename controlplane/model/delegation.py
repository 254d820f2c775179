"""VirtualServices that leave rules to others: a root is seen with its delegates' rules in the place of its own.

Owns:   which delegate a rule means, the joined rules, when a root changes because a delegate does.
Not:    what joined rules do; what is told of delegates that are not there (compiler.delegation_findings).
Source: istio virtualservice.go mergeVirtualServicesIfNeeded: each match of a delegate's rule lies within one of the
        root's or the rule is left out; what the delegate's rule leaves open the root's says.
Differs: the same regular expression in both is no conflict.
Invariant: whoever asks for rules sees joined objects; objects that delegate nothing are passed through as they are.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from controlplane.model.gateways import gateway_name
from controlplane.model.persistent import PersistentIndex, PersistentMap
from controlplane.model.services import visible
from controlplane.policy.frozen import FrozenMap
from controlplane.policy.hosts import resolve
from controlplane.policy.http_route import Destination, HTTPMatchRequest, HTTPRoute
from controlplane.policy.kinds import VIRTUAL_SERVICE
from controlplane.policy.objects import PolicyObject
from controlplane.policy.string_match import StringMatch
from controlplane.policy.virtual_service import MESH_GATEWAY, VirtualService
from mesh.vocabulary import ObjectRef

# What a delegate's rule takes over from the root's when it says nothing itself; not for one that answers itself.
_TAKEN_OVER = ("timeout", "retries", "cors_policy", "headers")
_OF_ROUTES = ("rewrite", "fault")
_MIRRORS = ("mirror", "mirrors", "mirror_percent", "mirror_percentage")
_MATCHED_TEXTS = ("uri", "scheme", "method", "authority")
_MATCHED_MAPS = ("headers", "without_headers", "query_params", "source_labels")
_OF_PROXIES = ("port", "gateways", "source_namespace")
Key = tuple[str, str]  # namespace, name


class Delegation:
    """Immutable; `updated` gives the next."""

    __slots__ = ("_delegates", "_domain_suffix", "_joined", "_referrers", "_roots")

    def __init__(self, domain_suffix: str) -> None:
        self._domain_suffix = domain_suffix
        self._delegates: PersistentMap[Key, PolicyObject] = PersistentMap()
        self._roots: PersistentMap[ObjectRef, PolicyObject] = PersistentMap()
        self._joined: PersistentMap[ObjectRef, PolicyObject] = PersistentMap()
        self._referrers: PersistentIndex[Key, ObjectRef] = PersistentIndex()

    def joined(self, rule: PolicyObject) -> PolicyObject:
        """The rule as those see it who ask for rules: a root with its delegates', any other as it is."""
        return self._joined.get(rule.ref, rule)

    def updated(
        self, puts: Iterable[PolicyObject], gone: Iterable[PolicyObject]
    ) -> "tuple[Delegation, list[PolicyObject], list[PolicyObject]]":
        """The next version, and what comes and goes for those who see joined objects. `gone`: also the old form of
        what is put."""
        after, before = tuple(puts), tuple(gone)
        rules = [rule for rule in (*after, *before) if rule.kind is VIRTUAL_SERVICE]
        if not any(_is_root(rule) or _is_delegate(rule) for rule in rules):
            return self, list(after), list(before)
        following = self._next(after, before)
        touched = {rule.ref for rule in rules if _is_root(rule)}
        touched |= {ref for rule in rules if _is_delegate(rule) for ref in following._referrers[_key(rule)]}
        joined = {ref: following._join(root) for ref in touched if (root := following._roots.get(ref)) is not None}
        following._joined = self._joined.updated(joined, [ref for ref in touched if ref not in joined])
        came = [joined[ref] for ref in sorted(joined)]
        went = [old for ref in sorted(touched) if (old := self._joined.get(ref)) is not None]
        return (
            following,
            [*(rule for rule in after if not _is_root(rule)), *came],
            [*(rule for rule in before if not _is_root(rule)), *went],
        )

    def _next(self, after: tuple[PolicyObject, ...], before: tuple[PolicyObject, ...]) -> "Delegation":
        following = Delegation(self._domain_suffix)
        following._delegates = self._delegates.updated(
            {_key(rule): rule for rule in after if _is_delegate(rule)},
            [_key(rule) for rule in before if _is_delegate(rule)],
        )
        following._roots = self._roots.updated(
            {rule.ref: rule for rule in after if _is_root(rule)}, [rule.ref for rule in before if _is_root(rule)]
        )
        following._referrers = self._referrers.updated(_references(after), _references(before))
        return following

    def _join(self, root: PolicyObject) -> PolicyObject:
        spec = root.spec_as(VirtualService)
        delegates = {key: found for key in delegates_of(root) if (found := self._delegates.get(key)) is not None}
        used = {key: found for key, found in delegates.items() if _is_visible(found, root)}
        rules = chain.from_iterable(self._rules(root, index, used) for index in range(len(spec.http)))
        joined = spec.model_copy(update={"http": tuple(rules)})
        return replace(root, spec=joined, parts=(root, *(used[key] for key in sorted(used))))

    def _rules(self, root: PolicyObject, place: int, used: dict[Key, PolicyObject]) -> Iterator[HTTPRoute]:
        rule = root.spec_as(VirtualService).http[place]
        if rule.delegate is None:
            yield _named(rule, root, place)
            return
        delegate = used.get(delegate_key(root, rule))
        if delegate is None:
            return
        outer = self._located(rule, root)
        for index, own in enumerate(delegate.spec_as(VirtualService).http):
            made = joined_rule(outer, self._located(own, delegate))
            if made is not None:
                yield _named(made, delegate, index)

    def _located(self, rule: HTTPRoute, owner: PolicyObject) -> HTTPRoute:
        """With full hosts and gateways: short ones are of its own namespace."""

        def full(destination: Destination | None) -> Destination | None:
            if destination is None:
                return None
            host = resolve(destination.host, owner.metadata.namespace, domain_suffix=self._domain_suffix)
            return destination.model_copy(update={"host": host})

        update = {
            "route": tuple(item.model_copy(update={"destination": full(item.destination)}) for item in rule.route),
            "mirror": full(rule.mirror),
            "mirrors": tuple(item.model_copy(update={"destination": full(item.destination)}) for item in rule.mirrors),
        }
        return with_full_gateways(rule, owner).model_copy(update=update)


def with_full_gateways(rule: HTTPRoute, owner: PolicyObject) -> HTTPRoute:
    """A rule whose matches name gateways as `namespace/name`, so that those of several namespaces can be compared."""
    if not any(match.gateways for match in rule.match):
        return rule

    def full(written: str) -> str:
        return written if written == MESH_GATEWAY else gateway_name(written, owner.metadata.namespace)

    matches = (match.model_copy(update={"gateways": tuple(map(full, match.gateways))}) for match in rule.match)
    return rule.model_copy(update={"match": tuple(matches)})


def delegates_of(root: PolicyObject) -> tuple[Key, ...]:
    """The delegates that a VirtualService names, each once."""
    rules = root.spec_as(VirtualService).http
    return tuple(dict.fromkeys(delegate_key(root, rule) for rule in rules if rule.delegate is not None))


def delegate_key(root: PolicyObject, rule: HTTPRoute) -> Key:
    """Namespace and name of a rule's delegate."""
    assert rule.delegate is not None
    return rule.delegate.namespace or root.metadata.namespace, rule.delegate.name


def joined_rule(root: HTTPRoute, own: HTTPRoute) -> HTTPRoute | None:
    """A delegate's rule below the root's; None when a match of it does not lie within those of the root.

    Both with full gateways.
    """
    matches = _joined_matches(root.match, own.match)
    if matches is None:
        return None
    answers = own.redirect is not None or own.direct_response is not None
    update = {name: getattr(root, name) for name in _TAKEN_OVER if getattr(own, name) is None}
    if not answers:
        update |= {name: getattr(root, name) for name in _OF_ROUTES if getattr(own, name) is None}
        if own.mirror is None and not own.mirrors:
            update |= {name: getattr(root, name) for name in _MIRRORS}
    name = "-".join(part for part in (root.name, own.name) if part)
    return own.model_copy(update={**update, "match": matches, "name": name})


def _joined_matches(
    root: tuple[HTTPMatchRequest, ...], own: tuple[HTTPMatchRequest, ...]
) -> tuple[HTTPMatchRequest, ...] | None:
    if not root or not own:
        return root or own
    found: list[HTTPMatchRequest] = []
    for match in own:
        within = [_joined_match(wide, match) for wide in root if _lies_within(match, wide)]
        if not within:
            return None
        found += within
    return tuple(found)


def _joined_match(root: HTTPMatchRequest, own: HTTPMatchRequest) -> HTTPMatchRequest:
    update: dict[str, object] = {
        name: getattr(own, name) or getattr(root, name) for name in (*_MATCHED_TEXTS, *_OF_PROXIES)
    }
    update |= {name: FrozenMap({**getattr(root, name), **getattr(own, name)}) for name in _MATCHED_MAPS}
    update["name"] = "-".join(part for part in (root.name, own.name) if part)
    update["ignore_uri_case"] = (own if own.uri is not None else root).ignore_uri_case
    return own.model_copy(update=update)


def _lies_within(own: HTTPMatchRequest, root: HTTPMatchRequest) -> bool:
    """Whether no condition of the delegate's match goes beyond the root's."""
    return (
        all(_text_within(getattr(own, name), getattr(root, name)) for name in _MATCHED_TEXTS)
        and all(_text_within(value, root.headers.get(name)) for name, value in own.headers.items())
        and all(_text_within(value, root.headers.get(name)) for name, value in own.without_headers.items())
        and all(_text_within(value, root.query_params.get(name)) for name, value in own.query_params.items())
        and (root.uri is None or own.uri is None or own.ignore_uri_case == root.ignore_uri_case)
        and (not root.port or own.port in (0, root.port))
        and _excludes_as_much(own, root)
        and _proxies_within(own, root)
    )


def _excludes_as_much(own: HTTPMatchRequest, root: HTTPMatchRequest) -> bool:
    """Whether the delegate's exclusion, which takes the place of the root's, leaves out all that the root's does."""
    return all(_text_within(value, own.without_headers.get(name)) for name, value in root.without_headers.items())


def _proxies_within(own: HTTPMatchRequest, root: HTTPMatchRequest) -> bool:
    return (
        (not root.source_namespace or own.source_namespace in ("", root.source_namespace))
        and all(root.source_labels.get(name, value) == value for name, value in own.source_labels.items())
        and (not root.gateways or set(own.gateways) <= set(root.gateways))
    )


def _text_within(own: StringMatch | None, root: StringMatch | None) -> bool:
    if own is None or root is None or own == root or root.is_presence:
        return True
    if own.regex is not None or root.regex is not None:
        return False
    if root.exact:
        return own.exact == root.exact
    text = own.prefix or own.exact
    return bool(root.prefix) and text is not None and text.startswith(root.prefix or "")


def _named(rule: HTTPRoute, owner: PolicyObject, index: int) -> HTTPRoute:
    """With a name: where it stood can no longer be seen from where it stands."""
    if rule.name or any(match.name for match in rule.match):
        return rule
    return rule.model_copy(update={"name": f"{owner.metadata.namespace}/{owner.metadata.name}.http[{index}]"})


def _is_root(rule: PolicyObject) -> bool:
    return rule.kind is VIRTUAL_SERVICE and any(http.delegate for http in rule.spec_as(VirtualService).http)


def _is_delegate(rule: PolicyObject) -> bool:
    return rule.kind is VIRTUAL_SERVICE and rule.spec_as(VirtualService).is_delegate


def _is_visible(delegate: PolicyObject, root: PolicyObject) -> bool:
    exported = delegate.spec_as(VirtualService).effective_export_to
    return visible(exported, delegate.metadata.namespace, root.metadata.namespace)


def _key(rule: PolicyObject) -> Key:
    return rule.metadata.namespace, rule.metadata.name


def _references(rules: Iterable[PolicyObject]) -> Iterator[tuple[Key, ObjectRef]]:
    for rule in rules:
        if _is_root(rule):
            yield from ((key, rule.ref) for key in delegates_of(rule))

"""Which rules and matches of a VirtualService no request can ever reach. Pure.

Source: control-plane.md 2.3.3 (translation stops after the first catch-all); Istio's IST0130 and IST0131.

A match covers another when whatever fits the other fits it too: each of its conditions is there in the other, as it is
or narrower. A regex covers only the same regex, so what is reported is certain, and something may stay unreported.
"""

from collections.abc import Iterator, Mapping

from controlplane.policy.http_route import HTTPMatchRequest
from controlplane.policy.string_match import StringMatch
from controlplane.policy.virtual_service import VirtualService

_ANYTHING = HTTPMatchRequest()
Place = tuple[int, int]  # rule, match


def unreachable_rules(spec: VirtualService) -> tuple[tuple[int, int], ...]:
    """(rule, the rule that takes its requests) of every rule that is never used."""
    found: list[tuple[int, int]] = []
    for index, http in enumerate(spec.http):
        coverers = [_coverer(spec, (index, number), match) for number, match in enumerate(http.match or (_ANYTHING,))]
        earlier = [place for place in coverers if place is not None and place[0] < index]
        if len(earlier) == len(coverers):
            found.append((index, earlier[0][0]))
    return tuple(found)


def ineffective_matches(spec: VirtualService) -> tuple[tuple[Place, Place], ...]:
    """(match, the match that takes its requests), but for the rules that are unreachable as a whole."""
    dead = {index for index, _ in unreachable_rules(spec)}
    return tuple(
        ((index, number), coverer)
        for index, http in enumerate(spec.http)
        if index not in dead
        for number, match in enumerate(http.match)
        if (coverer := _coverer(spec, (index, number), match)) is not None
    )


def _coverer(spec: VirtualService, place: Place, match: HTTPMatchRequest) -> Place | None:
    return next((earlier for earlier, other in _before(spec, place) if covers(other, match)), None)


def _before(spec: VirtualService, place: Place) -> Iterator[tuple[Place, HTTPMatchRequest]]:
    for index, http in enumerate(spec.http[: place[0] + 1]):
        if http.delegate is not None:
            continue  # which requests it takes is the delegate's to say
        for number, match in enumerate(http.match or (_ANYTHING,)):
            if (index, number) < place:
                yield (index, number), match


def covers(wide: HTTPMatchRequest, narrow: HTTPMatchRequest) -> bool:
    """Whether every request that fits `narrow` fits `wide`, from every proxy that has it."""
    return (
        _covers_path(wide, narrow)
        and all(_covers_text(getattr(wide, name), getattr(narrow, name)) for name in ("scheme", "method", "authority"))
        and _covers_map(wide.headers, narrow.headers)
        and _covers_map(wide.query_params, narrow.query_params)
        # Without a header: the fewer it excludes, the wider it is.
        and all(narrow.without_headers.get(name) == value for name, value in wide.without_headers.items())
        and wide.port in (0, narrow.port)
        and wide.source_namespace in ("", narrow.source_namespace)
        and wide.source_labels.items() <= narrow.source_labels.items()
        and (not wide.gateways or wide.gateways == narrow.gateways)
    )


def _covers_path(wide: HTTPMatchRequest, narrow: HTTPMatchRequest) -> bool:
    if wide.uri is None or wide.uri.prefix in ("", "/"):
        return True
    if narrow.uri is None or (narrow.ignore_uri_case and not wide.ignore_uri_case):
        return False
    return _covers_text(wide.uri, narrow.uri, ignore_case=wide.ignore_uri_case)


def _covers_map(wide: Mapping[str, StringMatch], narrow: Mapping[str, StringMatch]) -> bool:
    return all(name in narrow and _covers_text(match, narrow[name]) for name, match in wide.items())


def _covers_text(wide: StringMatch | None, narrow: StringMatch | None, *, ignore_case: bool = False) -> bool:
    if wide is None or wide == narrow:
        return True
    if narrow is None:
        return False
    if wide.is_presence:
        return True
    value = narrow.exact if narrow.exact is not None else narrow.prefix
    if value is None:
        return False
    value = value.lower() if ignore_case else value
    if wide.prefix is not None:
        return value.startswith(wide.prefix.lower() if ignore_case else wide.prefix)
    exact = wide.exact
    return exact is not None and narrow.exact is not None and value == (exact.lower() if ignore_case else exact)

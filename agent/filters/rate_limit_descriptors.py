"""What a rate limit is told of a request: descriptors, lists of (key, value).

Source: Envoy's router_ratelimit.cc: a request for which an action has no value has no such descriptor; of a repeated
        field the first line counts; the address is the one that is believed.
"""

from collections.abc import Callable
from typing import Any

from agent.codec.head import RequestHead, may_be_joined, values_of
from agent.filters.address_operators import downstream_host
from agent.filters.subject import Subject
from agent.model.rate_limit import Action, ActionKind, DescriptorRule
from agent.router.matchers import CompiledHeader, header_value

Entries = tuple[tuple[str, str], ...]
Telling = Callable[[Any], str | None]


class CompiledRule:
    """A DescriptorRule, ready to be asked. Raises re2.error for a matcher with a bad regex."""

    __slots__ = ("_telling", "keys")

    def __init__(self, rule: DescriptorRule) -> None:
        self.keys = tuple(action.key for action in rule.actions)
        self._telling = tuple((action.key, _telling(action)) for action in rule.actions)

    def entries(self, subject: Subject) -> Entries | None:
        """The descriptor of a request, or None."""
        found: list[tuple[str, str]] = []
        for key, telling in self._telling:
            value = telling(subject)
            if value is None:
                return None
            found.append((key, value))
        return tuple(found)


def _telling(action: Action) -> Telling:
    value = action.value
    match action.kind:
        case ActionKind.LITERAL:
            return lambda subject: value
        case ActionKind.HEADER:
            name = action.name.encode()
            return lambda subject: _header(subject.head, name)
        case ActionKind.REMOTE_ADDRESS:
            return _remote_address
        case ActionKind.HEADER_MATCH:
            headers = tuple(CompiledHeader(one) for one in action.headers)
            expected = action.expected
            return lambda subject: value if all(one.matches(subject.head) for one in headers) == expected else None
        case ActionKind.URL_PATH:
            return _url_path
        case ActionKind.PRINCIPAL:
            return _principal
        case ActionKind.METADATA:
            return lambda subject: _metadata(subject, action)


def _header(head: RequestHead, name: bytes) -> str | None:
    value = header_value(head, name)
    if value is None:
        return None
    if may_be_joined(value) and name in head.headers.index:
        value = values_of(head.headers, name)[0]
    return value.decode("utf-8", "replace")


def _remote_address(subject: Any) -> str | None:
    return downstream_host(subject) or None


def _url_path(subject: Any) -> str | None:
    path: bytes = subject.head.path
    return path.partition(b"?")[0].partition(b"#")[0].decode("utf-8", "replace")


def _principal(subject: Any) -> str | None:
    return min(subject.connection.peer_uris, default=None)


def _metadata(subject: Any, action: Action) -> str | None:
    """A text that a filter before has said; Envoy takes nothing else."""
    passage = subject.passage
    found: Any = passage.metadata.get(action.name) if passage is not None else None
    for part in action.path:
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, str) and found else None

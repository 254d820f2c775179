"""Templates of paths as regular expressions.

Source: envoy/extensions/path/match/uri_template/v3: `*` is one segment, `**` any number of them, the last; variables
        `{name}`, `{name=pattern}` are not written in policies and not taken.
Invariant: a segment is what RFC 3986 calls so, of at least one character.
"""

import re
from typing import Final

_SEGMENT: Final = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]+"
_REST: Final = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=/]*"
_LITERAL: Final = re.compile(r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]*")
_SPECIAL: Final = re.compile(r"([.+$()\-])")


def template_regex(template: str) -> str:
    """For the path without its query. Raises ValueError for what is no template."""
    if not template.startswith("/"):
        raise ValueError(f"found {template!r}, expected a template that begins with /")
    segments = template[1:].split("/")
    parts: list[str] = []
    for place, segment in enumerate(segments):
        if segment == "**":
            if place != len(segments) - 1:
                raise ValueError(f"found {template!r}, expected ** only as the last segment")
            parts.append(_REST)
        elif segment == "*":
            parts.append(_SEGMENT)
        elif _LITERAL.fullmatch(segment):
            parts.append(_SPECIAL.sub(r"\\\1", segment))
        else:
            raise ValueError(f"found segment {segment!r}, expected literal characters, * or **")
    return "/" + "/".join(parts)

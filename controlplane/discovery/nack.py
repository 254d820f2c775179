"""Which resources a NACK means: our agent's typed list, else the names that stand in the text. Sans-io.

Source: decision 21; Envoy's messages, as "Error adding/updating cluster(s) NAME: REASON, NAME: REASON" (tests).
"""

import re
from collections.abc import Iterable

from google.rpc.status_pb2 import Status

from mesh.xds.nack import rejected_names

_MAX_REASON = 1024


def named_in(error: Status, names: Iterable[str]) -> dict[str, str]:
    """Resource name -> reason, of those of `names` that the error means; empty when it says none."""
    known = set(names)
    typed = {name: reason[:_MAX_REASON] for name, reason in rejected_names(error.details).items() if name in known}
    return typed or {name: error.message[:_MAX_REASON] for name in known if _stands_in(name, error.message)}


def _stands_in(name: str, text: str) -> bool:
    """Is `name` in `text` as a whole word? `outbound|80||a` does not stand in `outbound|80||a.b`."""
    if not name or name not in text:
        return False
    return re.search(rf"(?<![\w|./-]){re.escape(name)}(?![\w|/-]|\.\w)", text) is not None

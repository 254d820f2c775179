"""What aiohttp's server logs about its clients' bytes.

Owns:   leaving out the tracebacks of requests that are no HTTP: the client gets its 400, and nobody who only reaches
        the port can fill the log.
Not:    failures of our handlers (controlplane.api.middleware logs those).
"""

import logging

from aiohttp.http_exceptions import HttpProcessingError

_SERVER = logging.getLogger("aiohttp.server")


def quiet_bad_requests() -> None:
    """From now on the server's logger passes only what is our own fault. Calling it again changes nothing."""
    _SERVER.addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError) or _SERVER.isEnabledFor(logging.DEBUG)

"""Structured logs: a static lower-case event, facts as fields, one line each on standard error.

Owns:   the text and JSON forms, bound context (node, stream, request), redaction of secrets.
Not:    access logs (agent.stats, written by the worker itself).
Invariant: a `Secret` never prints its value, in any form of log, repr or error.
"""

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any

_context: ContextVar[dict[str, Any]] = ContextVar("log_context", default={})  # noqa: B039 - replaced, never mutated


class Logger:
    """A logger of events with fields. Cheap when the level is off."""

    __slots__ = ("_inner",)

    def __init__(self, name: str) -> None:
        self._inner = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields, exc_info)

    def _log(self, level: int, event: str, fields: dict[str, Any], exc_info: BaseException | None = None) -> None:
        if self._inner.isEnabledFor(level):
            self._inner.log(level, event, extra={"fields": {**_context.get(), **fields}}, exc_info=exc_info)


def get_logger(name: str) -> Logger:
    """The logger of a module: `get_logger(__name__)`."""
    return Logger(name)


def bind(**fields: Any) -> None:
    """Add fields to every log line of the current task and of the tasks it starts."""
    _context.set({**_context.get(), **fields})


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._as_json:
            line: dict[str, Any] = {
                "ts": stamp,
                "level": record.levelname.lower(),
                "logger": record.name,
                "event": record.getMessage(),
            }
            line.update(
                {
                    key: value if isinstance(value, int | float | bool | None) else str(value)
                    for key, value in fields.items()
                }
            )
            if trace:
                line["exception"] = trace
            return json.dumps(line, ensure_ascii=False)
        text = " ".join(f"{key}={_text(value)}" for key, value in fields.items())
        head = f"{stamp} {record.levelname.lower():<7} {record.name}: {record.getMessage()}"
        return "  ".join(part for part in (head, text) if part) + (f"\n{trace}" if trace else "")


def _text(value: Any) -> str:
    text = str(value)
    if text and text.isprintable() and not any(char in ' "' or char.isspace() for char in text):
        return text
    # Escaped where it could steer a terminal.
    return json.dumps(text, ensure_ascii=not text.isprintable())


def configure(*, level: str = "info", as_json: bool = False) -> None:
    """Set up the process's logging on standard error. Raises ValueError for an unknown level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(as_json=as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # grpc's and aiohttp's chatter is about their own insides; their warnings still pass.
    for noisy in ("grpc", "aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

"""Format strings with %OPERATORS%: checked with what the worker will compile them with."""

from agent.config.fields import Refused
from agent.filters.formats import text_format
from agent.filters.subject import FormatError


def format_string(text: str, path: str) -> str:
    """`text`, when the worker can use it."""
    try:
        text_format(text)
    except FormatError as error:
        raise Refused(path, str(error)) from error
    return text

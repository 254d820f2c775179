"""Access-log lines of subjects that stand for an exchange: simple objects with its attributes.

The compiled function that gathers the facts of a line takes the real classes only, so this is its source, interpreted.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import agent.proxy
from agent.filters import access_log
from agent.filters.access_log import FactsOf, Line
from agent.model.listener import AccessLog


def _facts_of() -> FactsOf:
    source = Path(agent.proxy.__path__[0], "log_facts.py")
    spec = spec_from_file_location("interpreted_log_facts", source)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: FactsOf = module.facts_of
    return found


FACTS_OF = _facts_of()


def line_of(config: AccessLog) -> Line:
    """The formatter that `config` asks for."""
    return access_log.line_of(config, FACTS_OF)

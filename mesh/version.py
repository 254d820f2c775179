"""The version of this distribution, as pyproject.toml says it (a test compares them).

Why: `importlib.metadata` can tell it too, but costs an agent 2 MiB and 12 ms for this one word.
"""

VERSION = "0.1.0"

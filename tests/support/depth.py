"""How much the generated tests try: TEST_DEPTH is `ci` (the default) or `full` (`make test-all`).

ci     the same examples at every run, so that a failure belongs to the change under test
full   other examples at every run, and many times as many

The name is none of GOSSAMER_...: the control planes that tests start would take it for a setting that they do not know.
"""

import os

PROFILES = {"ci": 1, "full": 10}  # how many times the examples that a test asks for
PROFILE = os.environ.get("TEST_DEPTH", "ci")
if PROFILE not in PROFILES:
    raise SystemExit(f"TEST_DEPTH: found {PROFILE}, expected one of {', '.join(PROFILES)}")
FULL = PROFILE == "full"


def examples(count: int) -> int:
    """For `@settings(max_examples=examples(count))`: so many, or what `full` makes of it."""
    return count * PROFILES[PROFILE]

"""What holds for every test: Hypothesis judges answers, never the time that they took on a busy machine."""

from hypothesis import HealthCheck, settings

from tests.support.depth import FULL, PROFILE, examples

settings.register_profile(
    PROFILE,
    max_examples=examples(100),
    derandomize=not FULL,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile(PROFILE)

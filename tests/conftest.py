"""What holds for every test: Hypothesis judges answers, never the time that they took on a busy machine."""

from hypothesis import HealthCheck, settings

settings.register_profile("gossamer", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("gossamer")

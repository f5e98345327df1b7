"""What every test run shares."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Timing never decides a pass: a busy machine is slow at making examples, and that is no fault of ours.
settings.register_profile("wearsight", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wearsight")

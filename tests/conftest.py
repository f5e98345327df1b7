"""What every test run shares."""

from __future__ import annotations

import os

# Two workers fill two cores; threads of linear algebra beside them only wait for each other. Read at NumPy's import.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

# Timing never decides a pass: a busy machine is slow at making examples, and that is no fault of ours.
settings.register_profile("wearsight", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wearsight")

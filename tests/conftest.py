"""Hypothesis profiles: ``HYPOTHESIS_PROFILE`` chooses, else ``ci`` under CI and ``dev``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Deadlines are off everywhere: the machines that run this are shared, and a slow example is
# not a wrong one. CI is derandomised so that a red run can be repeated.
settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile(
    "fuzz", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)

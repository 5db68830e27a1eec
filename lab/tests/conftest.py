"""Hypothesis: no deadlines, since machines are shared; in CI always the same examples."""

from __future__ import annotations

import os

from hypothesis import settings

CI = bool(os.environ.get("CI")) or os.environ.get("HYPOTHESIS_PROFILE") == "ci"
settings.register_profile("lab", max_examples=100 if CI else 25, deadline=None, derandomize=CI)
settings.load_profile("lab")

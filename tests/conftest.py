"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# A shared two-core machine makes single examples slow now and then; nothing here tests speed.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

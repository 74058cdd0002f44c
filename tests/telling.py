"""What a test tells besides that it passed: how many points a campaign struck. The end of a run shows it."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str], None]
"""The fixture `tell`."""

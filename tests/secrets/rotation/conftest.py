"""Worlds for the scenarios of the rotation machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.secrets.rotation.simulation import Made, World


@pytest.fixture
def made(tmp_short: Path) -> Made:
    """Makes a world."""
    return lambda kind="two-slots", **how: World(tmp_short, kind, **how)

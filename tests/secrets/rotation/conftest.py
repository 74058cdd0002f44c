"""Worlds for the scenarios of the rotation machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.secrets.rotation.simulation import WORLDS, Made, World


@pytest.fixture
def made(tmp_short: Path) -> Made:
    """Makes a world."""
    return lambda kind="two-slots", **how: World(tmp_short, kind, **how)


@pytest.fixture(autouse=True)
def worlds_end() -> Iterator[None]:
    """No journal outlives its test."""
    yield
    while WORLDS:
        WORLDS.pop().close()

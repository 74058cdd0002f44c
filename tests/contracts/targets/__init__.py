"""Real targets for the contract of rotation: each module of this folder starts one kind, and registers it in KINDS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import RotationTarget


@dataclass(frozen=True)
class Lab:
    """A target that accepts one value."""

    target: RotationTarget
    first: Secret
    makes_values: bool = False
    """Whether the target itself makes new values, as AWS makes access keys: `create` has them accepted at once."""


KINDS: dict[str, Callable[[Path], AbstractContextManager[Lab]]] = {}
"""By name: starts the real thing, in a folder of its own. May call pytest.skip, naming what is missing."""

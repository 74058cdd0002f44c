"""The target in memory, with one slot and with two: it shows that the contract itself can be kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit.secrets.reference import Secret
from tests.contracts.targets import KINDS, Lab
from tests.secrets.rotation.memory import MemoryTarget


@contextmanager
def _one_slot(_folder: Path) -> Iterator[Lab]:
    yield Lab(MemoryTarget(b"first", keeps_old=False), Secret("first"))


@contextmanager
def _two_slots(_folder: Path) -> Iterator[Lab]:
    yield Lab(MemoryTarget(b"first", keeps_old=True), Secret("first"))


KINDS["memory-one-slot"] = _one_slot
KINDS["memory-two-slots"] = _two_slots

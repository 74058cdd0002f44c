"""Entries of a config as objects: what they take, and that they stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opskit.config.entry import Entry
from opskit.config.model import CommandSource, Keys, LocalDestination, PathsSource, Policy

DISK = LocalDestination(path=Path("/backup"))


@pytest.mark.parametrize(
    ("entry", "values", "words"),
    [
        (LocalDestination, {"path": Path("/a"), "pfad": 1}, "no key pfad"),
        (LocalDestination, {"medium": "usb"}, "needs a value for path"),
        (Keys, {}, "needs a value for recipients"),
    ],
)
def test_keys_are_those_of_the_schema(entry: type[Entry], values: dict[str, Any], words: str) -> None:
    """An entry takes neither a key it does not know nor the absence of one it needs."""
    with pytest.raises(TypeError, match=words):
        entry(**values)


def test_an_entry_cannot_be_changed() -> None:
    """Whoever holds an entry sees what others see; another value takes a copy, and the original stays."""
    with pytest.raises(AttributeError, match="cannot be changed"):
        DISK.offsite = True  # type: ignore[misc]
    assert DISK.but(offsite=True).offsite and not DISK.offsite
    assert DISK.but(offsite=True).path == DISK.path


def test_entries_are_equal_by_kind_and_value() -> None:
    """Two entries are equal when they are of one kind and agree in every key, given or left to its default."""
    assert LocalDestination(path=Path("/backup"), medium="disk") == DISK
    assert LocalDestination(path=Path("/backup"), medium="usb") != DISK
    assert Policy() == Policy(copies=3) != Policy(copies=2)
    assert Policy() != Keys(recipients=())


def test_every_entry_has_its_own_defaults() -> None:
    """A mapping that one entry got by default is not shared with the next."""
    first, second = (CommandSource(command=("a",), filename="b") for _ in range(2))
    assert first.env == {} and first.env is not second.env


def test_what_is_inherited_is_known() -> None:
    """Keys that all kinds of sources share belong to each of them, before its own."""
    assert list(PathsSource.known_keys())[:4] == ["verify", "hooks", "tags", "paths"]
    assert repr(DISK).startswith("LocalDestination(path=PosixPath('/backup'), medium='disk'")

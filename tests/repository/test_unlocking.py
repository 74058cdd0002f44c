"""Run keys out of many key objects: few are opened, side by side, and none is believed that nothing vouches for."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from time import sleep

import pytest

from opskit import encoding
from opskit.errors import NoKey, ObjectNotFound
from opskit.repository import names
from opskit.repository.manifest import Manifest, Run
from opskit.repository.unlocking import unlock

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def objects_for(runs: int) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest that needs so many runs, each with a key object of its own, which lies there unencrypted."""
    made = []
    stored = {}
    for number in range(runs):
        data = encoding.encode({f"{number:032x}": f"key {number}"})
        stored[names.key(names.sha256(data))] = data
        made.append(Run(f"{number:032x}", names.sha256(data), [], []))
    manifest = Manifest(
        "r", "web", "data", 1, None, NOON, NOON, (), "0" * 64, 0, made, {}, 1, 1, 1, 0, True, "test"
    )  # fmt: skip
    return manifest, stored


def sizes(stored: dict[str, bytes]) -> dict[str, int]:
    return {name: len(data) for name, data in stored.items()}


def getter(stored: dict[str, bytes]):  # type: ignore[no-untyped-def]
    def get(name: str) -> bytes:
        if name not in stored:
            raise ObjectNotFound(name)
        return stored[name]

    return get


def expected(runs: int) -> dict[str, bytes]:
    return {f"{number:032x}": f"key {number}".encode() for number in range(runs)}


def test_the_first_is_opened_alone_and_the_others_side_by_side() -> None:
    """Whoever is asked for a passphrase is asked once: nothing else is opened before the first one was."""
    manifest, stored = objects_for(20)
    lock, under_way, seen = threading.Lock(), 0, list[int]()

    def decrypt(data: bytes) -> bytes:
        nonlocal under_way
        with lock:
            under_way += 1
            seen.append(under_way)
        sleep(0.005)
        with lock:
            under_way -= 1
        return data

    assert unlock(manifest, getter(stored), decrypt, sizes(stored)) == expected(20)
    assert seen[:2] == [1, 1] and max(seen) > 1 and len(seen) == 20


def test_merged_keys_are_found_with_one_opening_where_the_old_objects_are_gone() -> None:
    """Of objects that nothing hints at the largest comes first: it holds the keys of many runs."""
    manifest, stored = objects_for(20)
    _, strangers = objects_for(50)
    others = {name: data for name, data in strangers.items() if name not in stored}
    merged = encoding.encode({run: key.decode() for run, key in expected(20).items()})
    others[names.key(names.sha256(merged))] = merged
    opened = []

    def decrypt(data: bytes) -> bytes:
        opened.append(data)
        return data

    assert unlock(manifest, getter(others), decrypt, sizes(others)) == expected(20)
    assert opened == [merged]


def test_what_the_manifest_names_counts_and_not_what_somebody_put_beside_it() -> None:
    """A larger object with wrong keys for the same runs changes nothing, nor does one that does not open."""
    manifest, stored = objects_for(9)
    wrong = encoding.encode(dict.fromkeys(expected(9), "wrong" * 50))
    stored[names.key(names.sha256(wrong))] = wrong
    broken = next(iter(stored))

    def decrypt(data: bytes) -> bytes:
        if data == stored[broken]:
            raise NoKey("not this one")
        return data

    found = unlock(manifest, getter(stored), decrypt, sizes(stored))
    assert {run: key for run, key in found.items() if run != f"{0:032x}"} == {
        run: key for run, key in expected(9).items() if run != f"{0:032x}"
    }


def test_a_missing_key_is_told_with_its_reason() -> None:
    """No key at hand that opens them, and no object at all, are two answers."""
    manifest, stored = objects_for(9)

    def refuse(data: bytes) -> bytes:
        raise NoKey("no key at hand opens the message")

    with pytest.raises(NoKey, match="at hand"):
        unlock(manifest, getter(stored), refuse, sizes(stored))
    with pytest.raises(ObjectNotFound):
        unlock(manifest, getter({}), bytes, {})
    with pytest.raises(NoKey, match="no key object holds"):
        unlock(manifest, getter(stored), lambda data: encoding.encode({"another": "key"}), {})

"""The note of recipients whose private key was deleted: never lost in silence, never taken for another."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from opskit.errors import ConfigError
from opskit.repository import deleted_keys

A, B = "A" * 40, "B" * 40
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_what_is_noted_is_read(tmp_path: Path) -> None:
    """Each with its day in UTC, beside what is there; a day that is noted stays; only the owner may read the file."""
    assert deleted_keys.read(tmp_path) == {}
    deleted_keys.note(tmp_path, A.lower(), NOON)
    deleted_keys.note(tmp_path, B, datetime(2026, 11, 24, 1, tzinfo=timezone(timedelta(hours=2))))
    deleted_keys.note(tmp_path, A, NOON + timedelta(days=9))
    assert deleted_keys.read(tmp_path) == {A: date(2026, 11, 23), B: date(2026, 11, 23)}
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert deleted_keys.objections(tmp_path)[A] == (
        "its private key was deleted on 2026-11-23, so nobody could open it"
    )  # fmt: skip


def test_who_took_a_key_back_is_believed_until_it_is_deleted_again(tmp_path: Path) -> None:
    """What another host said before is no news; what it says later is, and so is this host's own word. Others stay."""
    deleted_keys.note(tmp_path, B, NOON)
    for again in (deleted_keys.note, deleted_keys.note_elsewhere):
        deleted_keys.take_back(tmp_path, A, NOON - timedelta(days=2))
        deleted_keys.note_elsewhere(tmp_path, A, NOON - timedelta(days=1))
        assert A in deleted_keys.read(tmp_path)
        deleted_keys.take_back(tmp_path, A.lower(), NOON)
        deleted_keys.note_elsewhere(tmp_path, A, NOON)
        assert [*deleted_keys.read(tmp_path)] == [B] == [*deleted_keys.objections(tmp_path)]
        again(tmp_path, A, NOON + timedelta(days=2))
        assert deleted_keys.read(tmp_path) == {A: date(2026, 11, 25), B: date(2026, 11, 23)}


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"AB": "2026-11-23"}', b'{"%s": "soon"}' % A.encode(), b'{"%s": 1}' % A.encode(), b"\0" * 60],
)
def test_a_damaged_note_is_no_empty_one(data: bytes, tmp_path: Path) -> None:
    """Reading, noting and forgetting say which file it is and what to do, and leave it as it is."""
    deleted_keys.note(tmp_path, B, NOON)
    (file,) = tmp_path.iterdir()
    file.write_bytes(data)
    for act in (
        lambda: deleted_keys.read(tmp_path),
        lambda: deleted_keys.note(tmp_path, A, NOON),
        lambda: deleted_keys.take_back(tmp_path, A, NOON),
    ):
        with pytest.raises(ConfigError, match="damaged") as caught:
            act()
        assert str(file) in str(caught.value) and "move it away" in (caught.value.hint or "")
    assert file.read_bytes() == data


def test_a_note_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    """A folder in its place, for root may read every file."""
    deleted_keys.note(tmp_path, A, NOON)
    (file,) = tmp_path.iterdir()
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        deleted_keys.read(tmp_path)


def test_the_hint_fits_the_reasons(tmp_path: Path) -> None:
    """It tells of a key on paper where one of them was deleted, and of renewal where one of them was not."""
    deleted_keys.note(tmp_path, A, NOON)
    gone, expired = f"{A}: {deleted_keys.objections(tmp_path)[A]}", f"{B}: expired on 2026-01-01"
    assert deleted_keys.hint([expired], "renew it") == "renew it" == deleted_keys.hint([], "renew it")
    assert deleted_keys.hint([gone], "renew it") == deleted_keys.HINT
    assert "renew it" in (both := deleted_keys.hint([gone, expired], "renew it")) and deleted_keys.HINT in both

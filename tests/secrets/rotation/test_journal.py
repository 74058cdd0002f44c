"""The journal keeps what it was told, for every process that opens it, and survives a full disk."""

from __future__ import annotations

import resource
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from opskit.errors import OpskitError, StateFull, StateRefused
from opskit.secrets.rotation.journal import Journal, translation
from opskit.secrets.rotation.state import Rotation, State
from tests.faults.test_full import fill
from tests.stores.mounts import MEBIBYTE, mounted

ROTATION = Rotation("1", "db", "gpg:///s#db", 5.0, reached={State.PLANNED: 5.0})


@contextmanager
def _journal(folder: Path) -> Iterator[Journal]:
    journal = Journal(folder / "deep" / "journal.sqlite")
    try:
        yield journal
    finally:
        journal.close()


def test_a_rotation_is_kept(tmp_path: Path) -> None:
    """What was noted is there for the next process, to the last field; the last rotation of a name is the latest."""
    moved = replace(
        ROTATION, state=State.GRACE, is_back=True, old_print="a", new_print="b", refused_print="c", cause="why",
        problem="what", waits_until=9.0, refusals=2, reached={State.PLANNED: 5.0, State.GRACE: 7.0},
    )  # fmt: skip
    with _journal(tmp_path) as journal:
        journal.keep(replace(ROTATION, id="0"))
        journal.keep(ROTATION)
        journal.keep(replace(ROTATION, id="2", name="other"))
        journal.reach(moved, State.GRACE, 7.0, "note")
    with _journal(tmp_path) as journal:
        assert journal.latest("db") == moved
        assert set(journal.all_latest()) == {"db", "other"}
        assert journal.all_latest()["db"] == moved
        assert list(journal.steps(moved)) == [(State.GRACE, "done", 7.0, "note")]
        assert journal.latest("unknown") is None


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Nobody else reads which secrets there are."""
    with _journal(tmp_path):
        assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700
        for path in (tmp_path / "deep").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_when_secrets_were_rotated(tmp_path: Path) -> None:
    """A rotation counts from when its value became current, unless it was undone."""
    with _journal(tmp_path) as journal:
        done = replace(ROTATION, state=State.OLD_DELETED, reached={State.PROMOTED: 7.0, State.OLD_DELETED: 9.0})
        journal.keep(done)
        journal.keep(replace(ROTATION, id="2", is_back=True, reached={State.PROMOTED: 8.0}))
        journal.keep(replace(ROTATION, id="3"))
        assert journal.completed() == {"db": 7.0}


def test_parts(tmp_path: Path) -> None:
    """A part is listed once, in its order, and keeps its state; failed ones are taken up again as interrupted ones."""
    with _journal(tmp_path) as journal:
        assert journal.list_parts(ROTATION, "item", ["b", "a", "b"], 1.0) == 2
        assert journal.list_parts(ROTATION, "item", ["a", "c"], 1.0) == 1
        assert journal.list_parts(ROTATION, "other", ["a"], 1.0) == 1
        journal.mark(ROTATION, "item", [("b", "done", None, 1), ("a", "failed", "why", 2)], 2.0)
        journal.mark(ROTATION, "item", [("a", "failed", "still", 1)], 3.0)
        found = [(each.id, each.state, each.attempts, each.at, each.note) for each in journal.parts(ROTATION, "item")]
        assert found == [("b", "done", 1, 2.0, None), ("a", "failed", 3, 3.0, "still"), ("c", "todo", 0, 1.0, None)]
        assert journal.counts(ROTATION, "item") == {"done": 1, "failed": 1, "todo": 1}
        journal.requeue(ROTATION, "item")
        assert [each.id for each in journal.parts(ROTATION, "item", "running")] == ["a"]
        assert [each.id for each in journal.parts(ROTATION, "item", "done", "todo", limit=1)] == ["b"]
        assert journal.part(ROTATION, "item", "unknown") is None
        assert journal.counts(ROTATION, "other") == {"todo": 1}


def test_a_full_disk(tmp_path: Path) -> None:
    """A write that finds no space is an error and leaves nothing; with space again the same journal goes on."""
    with _journal(tmp_path) as journal:
        journal.keep(ROTATION)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (32 * 1024, before[1]))
        try:
            with pytest.raises(OpskitError, match="cannot use the journal of rotations"):
                for number in range(100):
                    journal.note(ROTATION, f"step {number}", "intent", 1.0, "x" * 1000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        written = len(list(journal.steps(ROTATION)))
        journal.note(ROTATION, "last", "intent", 1.0)
        assert len(list(journal.steps(ROTATION))) == written + 1
    with _journal(tmp_path) as journal:
        assert len(list(journal.steps(ROTATION))) == written + 1


def test_a_write_that_is_broken_off(tmp_path: Path) -> None:
    """What was interrupted in the middle of a write has written nothing, and the next write goes on."""

    def items() -> Iterator[str]:
        yield "a"
        raise KeyboardInterrupt

    with _journal(tmp_path) as journal:
        with pytest.raises(KeyboardInterrupt):
            journal.list_parts(ROTATION, "item", items(), 1.0)
        assert journal.list_parts(ROTATION, "item", ["b"], 1.0) == 1
        assert [each.id for each in journal.parts(ROTATION, "item")] == ["b"]


def test_a_link_in_place_of_the_journal(tmp_path: Path) -> None:
    """Nobody makes us write into another file."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "journal.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OpskitError, match="cannot use the journal"), _journal(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_what_may_hold(tmp_path: Path) -> None:
    """A step holds from when it was begun until the one that undoes it is done; begun once more it holds again."""
    with _journal(tmp_path) as journal:
        told: list[bool] = []
        for step, phase in (("off", "intent"), ("on", "intent"), ("on", "done"), ("off", "failed"), ("off", "intent")):
            told.append(journal.may_hold(ROTATION, "off", "on"))
            journal.note(ROTATION, step, phase, 1.0)  # type: ignore[arg-type]
        assert [*told, journal.may_hold(ROTATION, "off", "on")] == [False, True, True, False, False, True]


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    """Damage is told by the name of the file."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "journal.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(OpskitError, match=r"journal\.sqlite: file is not a database"), _journal(tmp_path):
        pass


@pytest.mark.parametrize("record", ["{}", "[]", "no json", '{"state": "ELSEWHERE"}', '{"state": "GRACE", "more": 1}'])
def test_a_record_that_nobody_understands(tmp_path: Path, record: str) -> None:
    """A damaged record, or one of a later version, is told as what it is, and not taken for a fault of opskit."""
    with _journal(tmp_path) as journal:
        journal.keep(ROTATION)
    with closing(sqlite3.connect(tmp_path / "deep" / "journal.sqlite")) as connection, connection:
        connection.execute("UPDATE rotation SET record = ?", (record,))
    with _journal(tmp_path) as journal:
        for ask in (lambda: journal.latest(ROTATION.name), journal.all_latest, journal.completed):
            with pytest.raises(OpskitError, match="record that cannot be read"):
                ask()


def test_a_small_disk(tmp_path: Path) -> None:
    """On a real disk without room, and on one that became read-only, that is what it says, and how to go on."""
    with mounted("tmpfs", tmp_path, size=MEBIBYTE) as place:
        with _journal(place) as journal:
            journal.keep(ROTATION)
            ballast = fill(place, 16 * 1024)
            with pytest.raises(StateFull, match="the disk with the state folder is full") as full:
                for number in range(100):
                    journal.note(ROTATION, f"step {number}", "intent", 1.0, "x" * 1000)
            assert full.value.exit_code == 21
            assert full.value.hint is not None
            assert "no value is lost" in full.value.hint
            assert "`opskit rotate resume db` goes on" in full.value.hint
            assert journal.latest("db") == ROTATION
            written = len(list(journal.steps(ROTATION)))
            (place / "deep" / "other").mkdir()
            with pytest.raises(StateFull, match="is full"), closing(Journal(place / "deep" / "other" / "journal")):
                pass
            ballast.unlink()
            journal.note(ROTATION, "last", "intent", 1.0)
            assert len(list(journal.steps(ROTATION))) == written + 1
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        with pytest.raises(StateRefused, match="the state folder is read-only") as refused, _journal(place):
            pass
        assert refused.value.exit_code == 22
        assert "make it writable" in str(refused.value.hint)


def test_a_disk_that_was_stopped(tmp_path: Path) -> None:
    """A file system that stopped after an error refuses writes though it is mounted for them: it is read-only."""
    with mounted("ext4", tmp_path) as place, _journal(place) as journal:
        journal.keep(ROTATION)
        subprocess.run(["mount", "-o", "remount,abort", str(place)], check=True)
        with pytest.raises(StateRefused, match="the state folder is read-only"):
            journal.note(ROTATION, "step", "intent", 1.0)
        assert journal.latest("db") == ROTATION


def test_an_error_of_sqlite_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    """An I/O error on a disk with room is told as it is: making room would not mend it."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_WRITE"
    told = translation(error, tmp_path / "journal.sqlite", "`opskit rotate resume db`")
    assert (type(told), told.exit_code) == (OpskitError, 1)
    assert str(told).endswith("journal.sqlite: disk i/o error")

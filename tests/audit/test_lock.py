"""The lock of a log: kept open between appends, and still the one that everybody else takes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from opskit.audit.files import Name
from opskit.audit.lock import Lock
from opskit.errors import AuditError
from tests.audit.logs import judged, open_log, segment


def is_free(folder: Path) -> bool:
    """Whether another open file can have the lock at once."""
    lock = Lock(folder / "audit", lambda _: None)
    try:
        lock.take(0)
    except AuditError:
        return False
    finally:
        lock.close()
    return True


def test_it_is_held_from_taking_to_releasing(tmp_path: Path) -> None:
    """Again and again, and by one thread at a time."""
    lock, found = Lock(tmp_path / "audit", lambda _: None), []
    for _ in range(2):
        lock.take(0)
        thread = threading.Thread(target=lambda: found.append(_can_take(lock)))
        thread.start()
        thread.join()
        assert not is_free(tmp_path)
        lock.release()
        assert is_free(tmp_path)
    assert found == [False, False]
    lock.close()
    assert len(list((tmp_path / "audit").iterdir())) == 2


def _can_take(lock: Lock) -> bool:
    try:
        lock.take(0)
    except AuditError:
        return False
    lock.release()
    return True


@pytest.mark.parametrize("how", ["removed", "moved", "replaced", "with its folder"])
def test_a_lock_file_that_is_gone_is_not_taken_for_the_lock(tmp_path: Path, how: str) -> None:
    """Whoever had it open takes the one that is at its name now, and waits for who holds that."""
    path, folder = tmp_path / "audit" / "lock", tmp_path / "audit"
    with open_log(tmp_path, sleep=lambda _: None) as log:
        log.append("backup", "ok")
        if how == "removed":
            path.unlink()
        elif how == "with its folder":
            folder.rename(tmp_path / "away")
        else:
            path.rename(tmp_path / "moved")
        if how == "replaced":
            path.touch()
        log.append("backup", "ok")
        other = Lock(folder, lambda _: None)
        other.take(0)
        with pytest.raises(AuditError, match="held the lock"):
            log.append("backup", "ok")
        other.close()
        log.append("backup", "ok")
    assert judged(tmp_path).torn_bytes == 0


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    """The kernel frees it when the parent is killed, although a child that was forked before lives on."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            lock = Lock(tmp_path / "audit", lambda _: None)
            lock.take(0)
            if os.fork() == 0:
                os.write(write, str(os.getpid()).encode())
            time.sleep(600)
        finally:
            os._exit(1)
    os.close(write)
    child = int(os.read(read, 32))
    try:
        assert not is_free(tmp_path)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert is_free(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(read)


def test_a_name_leads_to_a_file_until_somebody_changes_that(tmp_path: Path) -> None:
    """Also when its folder had not changed for long: moved, removed, replaced, or the folder exchanged for a copy."""
    for number, change in enumerate((_move, _remove, _replace, _exchange)):
        path = tmp_path / str(number) / "log" / "file"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
        with path.open("rb") as file:
            name = Name(path, file.fileno())
            assert name.leads_there()
            later = time.time() + 10
            os.utime(path, (later, later))  # as if it had been written to since: the folder is old
            assert name.leads_there() and name.leads_there()
            change(path)
            assert not name.leads_there(), change


def test_a_change_that_a_coarse_clock_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that changed just now may change again and keep its time: the name itself is looked at then."""
    path = tmp_path / "file"
    path.write_bytes(b"1")
    with path.open("rb") as file:
        name, above = Name(path, file.fileno()), tmp_path.stat()
        monkeypatch.setattr(os, "stat", lambda _: above)
        assert name.leads_there()
        path.rename(tmp_path / "moved")
        assert not name.leads_there()


def _move(path: Path) -> None:
    path.rename(path.with_name("moved"))


def _remove(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    path.with_name("other").write_bytes(b"2")
    path.with_name("other").replace(path)


def _exchange(path: Path) -> None:
    path.parent.rename(path.parent.with_name("away"))
    path.parent.mkdir()
    path.write_bytes(b"1")


def test_records_do_not_go_on_into_a_moved_file_of_an_old_folder(tmp_path: Path) -> None:
    """A daemon's log that was moved away after long is begun at its name."""
    with open_log(tmp_path) as log:
        log.append("backup", "ok")
        later = time.time() + 10
        os.utime(segment(tmp_path), (later, later))
        log.append("backup", "ok")
        moved = segment(tmp_path).rename(tmp_path / "moved")
        size = moved.stat().st_size
        log.append("backup", "ok")
        assert moved.stat().st_size == size and segment(tmp_path).stat().st_size > 0

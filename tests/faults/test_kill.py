"""Real processes, killed by signal 9 wherever they happen to be."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opskit.errors import RepositoryLocked
from opskit.operations.lock import exclusive
from opskit.stores.local import LocalStore
from tests.repositories import Keys, Lab, PackInspector, assert_restores, make_source, noise
from tests.telling import Tell

LONGEST = 0.12
"""Seconds; a whole run of the child takes a little less on a quiet machine."""
ROUNDS = 4
"""Kills of one repository: after more than 16 tiny packs a backup would gather their chunks into a new one."""


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has begun; it is killed at the end."""
    command = [sys.executable, "-m", "tests.faults.child", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"go\n"
            yield process
        finally:
            process.kill()


def _kill_and_go_on(lab: Lab, source: Path, seconds: float, inspector: PackInspector) -> bool:
    """Kill a backup after so long, then run the next one; returns whether the first had not ended by itself."""
    keys, store = lab.keys, lab.stores["a"]
    home = str(keys.host.home)
    place = [str(lab.state), store.location, str(source)]
    with child("backup", home, keys.host_key, keys.recipient_keys[0], str(keys.trusted), *place) as process:
        time.sleep(seconds)
        was_running = process.poll() is None
        process.kill()
    before = inspector.packs(store)
    known = {name for name in lab.pictures}
    lab.minutes += 1
    result = lab.backup(source)
    assert result.destinations == {"a": "ok"} and not result.errors, result
    had = {chunk for stored in before.values() for chunk in set(stored.ids) - stored.roots}
    for digest, stored in inspector.packs(store).items():
        assert digest in before or not had & set(stored.ids), "something stored was stored again"
    assert known <= {snapshot.name for snapshot in lab.history().snapshots}
    assert all(report.is_good for report in lab.verify().values()), lab.verify()
    return was_running


def _campaign(keys: Keys, scratch: Path, inspector: PackInspector, kills: int, seed: int) -> int:
    chance, real = random.Random(seed), 0
    for number in range(kills):
        if number % ROUNDS == 0:
            folder = scratch / f"kill-{seed}-{number}"
            source = make_source(folder / "source")
            store = LocalStore(folder / "repository")
            store.create()
            lab = Lab(keys, folder / "state", {"a": store}).create()
        (source / f"new-{number}").write_bytes(noise(number, 400_000))
        (source / "docs" / "note-01.txt").write_bytes(noise(number + 1000, 700))
        real += _kill_and_go_on(lab, source, chance.uniform(0, LONGEST), inspector)
        assert_restores(lab, source, folder / "restored")
    return real


def test_kill(throwaway_keys: Keys, scratch: Path, inspector: PackInspector) -> None:
    """After kill -9 at a random moment the next run succeeds, everything restores, nothing stored is stored again."""
    _campaign(throwaway_keys, scratch, inspector, 4, seed=1)


@pytest.mark.campaign
def test_kill_often(throwaway_keys: Keys, scratch: Path, inspector: PackInspector, tell: Tell) -> None:
    """The same a hundred times."""
    real = _campaign(throwaway_keys, scratch, inspector, 100, seed=2)
    tell(f"killed while running: {real} of 100")


def test_two_at_once(tmp_path: Path) -> None:
    """A second run gets RepositoryLocked while the first lives, and the lock the moment it was killed."""
    lock = tmp_path / "state" / "lock"
    with child("lock", str(lock)) as process:
        with pytest.raises(RepositoryLocked, match=str(process.pid)) as caught, exclusive(lock):
            pass
        assert caught.value.exit_code == 11
        process.kill()
        process.wait()
        with exclusive(lock):
            pass
    with exclusive(lock):
        pass

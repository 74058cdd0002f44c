"""`opskit find`: names in snapshots."""

from __future__ import annotations

import os

import pytest

from opskit.gpg import verify
from opskit.repository.manifest import decode
from tests.cli.labs import HostLab, lab, parsed

__all__ = ["lab"]

Capture = pytest.CaptureFixture[str]


def test_names_are_found_in_the_newest_snapshot_of_each_source(lab: HostLab, capsys: Capture) -> None:
    """A pattern is held against names in every source; each hit has snapshot, size and path."""
    assert lab.run("find", "*.sql", "unchanged", "--key", lab.key) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2] for line in lines] == ["unchanged", "dump.sql"]
    assert "3.0 kB" in lines[0]


def test_all_looks_into_older_snapshots_too(lab: HostLab, capsys: Capture) -> None:
    """With --all an unchanged file shows once for each snapshot, in JSON with the snapshot's id and time."""
    assert lab.run("find", "--all", "unchanged", "--json", "--key", lab.key) == 0
    items = parsed(capsys)
    assert len({item["snapshot"] for item in items}) == len(items) == 2
    assert all(item["path"].endswith("/docs/unchanged") and item["time"].endswith("Z") for item in items)


@pytest.mark.parametrize("pattern", ["/*/docs/[N]*", "*/docs/Note.TXT", "Note.???"])
def test_patterns_fit_a_name_or_a_whole_path(lab: HostLab, pattern: str, capsys: Capture) -> None:
    """A pattern may be a name or the whole path, with or without the leading slash."""
    assert lab.run("find", pattern, "--key", lab.key) == 0
    assert capsys.readouterr().out.endswith("/docs/Note.TXT\n")


def test_case_counts_unless_told(lab: HostLab, capsys: Capture) -> None:
    """Capitals matter, and with -i they do not."""
    assert lab.run("find", "note.txt", "--key", lab.key) == 3
    assert lab.run("find", "-i", "note.txt", "--key", lab.key) == 0


def test_a_name_that_is_not_utf8(lab: HostLab, capsys: Capture) -> None:
    """A pattern with a raw byte fits the name with that byte, which is shown escaped."""
    assert lab.run("find", os.fsdecode(b"*\xe9"), "--key", lab.key) == 0
    assert capsys.readouterr().out.endswith("latin-\\xe9\n")


def test_nothing_found_is_a_bad_answer(lab: HostLab, capsys: Capture) -> None:
    """When nothing matches the exit code is 3; --source narrows, and an unknown source is 10."""
    assert lab.run("find", "dump.sql", "--source", "data", "--key", lab.key) == 3
    out, err = capsys.readouterr()
    assert out == "" and "nothing found" in err and "--all" in err
    assert lab.run("find", "dump.sql", "--source", "dta", "--key", lab.key) == 10


def test_a_broken_snapshot_does_not_hide_the_others(lab: HostLab, capsys: Capture) -> None:
    """What whole snapshots hold is shown when another's tree cannot be read; the exit code is 3."""
    assert lab.run("snapshots", "db", "--json") == 0
    (db,) = parsed(capsys)
    packs_of_db = packs_named_in(lab, db["id"])
    for copy in ("a", "b"):
        for path in lab.objects(copy, "packs"):
            if path.name in packs_of_db:
                path.write_bytes(path.read_bytes()[:-7])
    assert lab.run("find", "*.sql", "unchanged", "--key", lab.key) == 3
    out, err = capsys.readouterr()
    assert out.endswith("/docs/unchanged\n") and f"snapshot {db['id'][:8]} could not be read" in err


def packs_named_in(lab: HostLab, snapshot: str) -> set[str]:
    """The packs of a snapshot's manifest."""
    (path,) = (path for path in lab.objects("a", "snapshots") if snapshot in path.name)
    manifest = decode(verify(path.read_bytes(), lab.root / "state" / "trusted.gpg").payload)
    return {pack for run in manifest.runs for pack in run.packs} & {manifest.tree_pack}

"""`opskit snapshots`: what there is, where, and what is not to be believed."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from pathlib import Path

import pytest

from opskit.cli import main
from opskit.gpg import Keyring
from tests.cli.labs import HostLab, lab, parsed

__all__ = ["lab"]

Capture = pytest.CaptureFixture[str]
CONTRACT = {"id", "source", "host", "time", "files", "bytes", "complete", "destinations"}


def test_every_snapshot_is_a_line_with_its_copies(lab: HostLab, capsys: Capture) -> None:
    """The table has a line for each snapshot of each source, with tags and the copies that hold it."""
    assert lab.run("snapshots") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["id", "time", "(UTC)"]
    assert [line.split()[3] for line in lines] == ["data", "data", "db"]
    assert all("a, b" in line for line in lines) and lines[0].endswith("first") and not lines[1].endswith("first")


def test_json_has_the_contracted_keys(lab: HostLab, capsys: Capture) -> None:
    """Every item holds the keys that scripts rely on, with whole ids, UTC times and bare numbers."""
    assert lab.run("snapshots", "--json", "db") == 0
    (item,) = parsed(capsys)
    assert item.keys() >= CONTRACT
    assert (item["source"], item["files"], item["bytes"], item["complete"]) == ("db", 1, 16, True)
    assert item["destinations"] == ["a", "b"] and len(item["id"]) == 64 and item["time"].endswith("Z")


def test_a_source_without_snapshots_is_an_error(lab: HostLab, capsys: Capture) -> None:
    """Asking for a source that no snapshot is of ends with 10 and names those there are."""
    assert lab.run("snapshots", "dta") == 10
    assert "data, db" in capsys.readouterr().err


def test_the_key_file_alone_suffices(lab: HostLab, capsys: Capture) -> None:
    """With --repository and --key the same snapshots are listed where no config and no state is left."""
    lab.config.unlink()
    (lab.root / "state").rename(lab.root / "gone")
    assert main(["snapshots", "--json", "--repository", str(lab.root / "b"), "--key", str(lab.key)]) == 0
    assert [item["source"] for item in parsed(capsys)] == ["data", "data", "db"]


def test_a_folder_without_repository(lab: HostLab, tmp_path: Path, capsys: Capture) -> None:
    """A location that holds no repository ends with 10."""
    (tmp_path / "empty").mkdir()
    assert main(["snapshots", "--repository", str(tmp_path / "empty"), "--key", str(lab.key)]) == 10
    assert "no opskit repository" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--repository", "x"], ["--key", "x"], ["--destination", "x"]])
def test_half_a_way_in_is_a_usage_error(lab: HostLab, options: list[str], capsys: Capture) -> None:
    """--repository without --key, --key without --repository and unknown destinations end with 2."""
    assert lab.run("snapshots", *options) == 2


def test_an_absent_copy_is_told_and_counts(lab: HostLab, capsys: Capture) -> None:
    """With one destination gone the list still comes, with a warning and exit 3."""
    (lab.root / "b").rename(lab.root / "elsewhere")
    assert lab.run("snapshots") == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4 and "a, b" not in out
    assert "warning: b: " in err


def test_a_manifest_by_a_stranger_is_an_alarm(lab: HostLab, tmp_short: Path, capsys: Capture) -> None:
    """A manifest signed by an unknown key is left out, told loudly, and ends with 13."""
    with Keyring(tmp_short / "g") as stranger:
        data = stranger.sign(b"{}", stranger.generate("stranger"))
    name = f"20261121T020000Z-data-{hashlib.sha256(data).hexdigest()}.gpg"
    (lab.root / "a" / "snapshots" / name).write_bytes(data)
    assert lab.run("snapshots") == 13
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert "IS NOT TO BE TRUSTED" in err and name in err


def test_a_damaged_manifest_is_bad_but_no_alarm(lab: HostLab, capsys: Capture) -> None:
    """A manifest that rotted at one copy is listed from the other, with a warning and exit 3."""
    path = lab.objects("a", "snapshots")[0]
    path.write_bytes(path.read_bytes()[:-1])
    lab.root.joinpath("state", "cache").rename(lab.root / "no-cache")
    assert lab.run("snapshots") == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4 and "cannot be read" in err


def test_a_busy_cache_does_not_stop_reading(lab: HostLab, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """While another process holds the cache for writing, the copies are read without it."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *arguments, **options: connect(*arguments, timeout=0, **options))
    (path,) = (lab.root / "state" / "cache").glob("*.sqlite")
    with contextlib.closing(connect(path, isolation_level=None)) as writer:
        writer.execute("DELETE FROM manifests")
        writer.execute("BEGIN IMMEDIATE")
        assert lab.run("snapshots") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4

"""`opskit verify --budget`: what it reads, what it remembers, and what `status` makes of it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from datetime import timedelta
from typing import Any

import pytest

from opskit import wiring
from opskit.cli import main
from tests.cli.labs import HostLab, lab, parsed
from tests.cli.test_verify import flip

__all__ = ["lab"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds pass whenever somebody looks at the clock: runs of a test do not fall into one second."""
    real, looked = wiring.now, itertools.count()
    monkeypatch.setattr(wiring, "now", lambda: real() + timedelta(seconds=2 * next(looked)))


def fill(lab: HostLab, packs: int = 6) -> None:
    """Back up some runs more, so that there are packs enough to take turns; the clock of the run has whole seconds."""
    folder = lab.root / "data" / "docs"  # what its config names; `lab.data` is where the first snapshots were made
    for number in range(packs):
        (folder / f"more{number}").write_bytes(os.urandom(2000))
    try:
        for number in range(packs):
            (folder / f"more{number}").write_bytes(os.urandom(2000))
            assert lab.run("backup", "data", "--quiet") == 0
    finally:
        for number in range(packs):
            (folder / f"more{number}").unlink()


def copies(lab: HostLab, capsys: Capture) -> dict[str, Any]:
    """What status says of the copies of `data`."""
    capsys.readouterr()
    lab.run("status", "data", "--json")
    found: dict[str, Any] = parsed(capsys)["sources"]["data"]
    return found


def test_a_share_covers_everything_in_time(lab: HostLab, capsys: Capture) -> None:
    """Runs of a quarter read everything in four: status shows a rising share, then when all was read, and the RPO."""
    fill(lab)
    shares = []
    for _ in range(4):
        assert lab.run("verify", "--budget", "25%", "--quiet") == 0
        found = copies(lab, capsys)
        shares.append(found["destinations"]["a"]["coverage"]["percent"])
    assert shares == sorted(shares) and 25 <= shares[0] < 100 and shares[-1] == 100
    assert found["destinations"]["a"]["last_verified"] is not None
    assert found["newest_verified"] == found["newest"]
    assert found["destinations"]["a"]["coverage"]["never_bytes"] == 0


def test_what_was_not_read_is_not_verified(lab: HostLab, capsys: Capture) -> None:
    """After one run of a few bytes there is no date of verification, and no snapshot is a recovery point."""
    fill(lab)
    assert lab.run("verify", "--budget", "1kB") == 0
    out, err = capsys.readouterr()
    assert "never yet" in out and "such runs read all of it" in err
    found = copies(lab, capsys)
    assert found["destinations"]["a"]["last_verified"] is None
    assert found["newest_verified"] is None and found["rpo_seconds"] is None
    lab.run("status", "data")
    assert f"{found['destinations']['a']['coverage']['percent']} %" in capsys.readouterr().out


def test_what_came_later_is_told_apart(lab: HostLab, capsys: Capture) -> None:
    """That all was read once is not said of packs that came afterwards and were never read."""
    assert lab.run("verify", "--quiet") == 0
    fill(lab)
    capsys.readouterr()
    assert lab.run("verify", "--destination", "a", "--budget", "1kB") == 0
    told = capsys.readouterr().out
    assert "that came later never yet" in told and "all of it since" not in told, told


def test_a_whole_verify_and_heal_feed_the_ledger(lab: HostLab, capsys: Capture) -> None:
    """What a verify without a budget or a heal has read needs not be read again."""
    fill(lab)
    assert lab.run("verify", "--destination", "a") == 0 and lab.run("heal", "--destination", "b") == 0
    capsys.readouterr()
    assert lab.run("verify", "--budget", "1kB", "--json") == 0
    found = parsed(capsys)["destinations"]
    assert [found[each]["coverage"]["percent"] for each in ("a", "b")] == [100, 100]
    assert found["a"]["coverage"]["since"] is not None


def test_a_budget_does_not_take_back_what_a_whole_verify_said(lab: HostLab, capsys: Capture) -> None:
    """Where the ledger is lost, or from before there was one, the date of the last whole verify stays."""
    fill(lab)
    assert lab.run("verify", "--quiet") == 0
    before = copies(lab, capsys)
    shutil.rmtree(lab.root / "state" / "readback")
    assert lab.run("verify", "--budget", "1%", "--quiet") == 0
    after = copies(lab, capsys)
    assert after["destinations"]["a"]["last_verified"] == before["destinations"]["a"]["last_verified"]
    assert after["newest_verified"] == before["newest_verified"]
    assert after["destinations"]["a"]["coverage"]["percent"] < 100


def test_damage_is_found_within_the_runs_and_stays_told(lab: HostLab, capsys: Capture) -> None:
    """A rotten pack is found by the runs that cover everything, told by each from then on, and gone when it is mended.

    That it is not in the ledger any more shows in the share that was read back.
    """
    fill(lab)
    assert lab.run("verify", "--quiet") == 0
    flip(lab.objects("a", "packs")[-1])
    codes = [lab.run("verify", "--budget", "20%", "--quiet") for _ in range(5)]
    assert 3 in codes and codes == sorted(codes), "once found, it is read in each run"
    found = copies(lab, capsys)["destinations"]["a"]
    assert found["state"] == "damaged" and found["coverage"]["percent"] < 100
    assert lab.run("heal", "--quiet") == 0 and lab.run("verify", "--budget", "1kB", "--quiet") == 0
    assert copies(lab, capsys)["destinations"]["a"]["state"] == "current"


def test_swapped_disks_share_no_claim(lab: HostLab, capsys: Capture) -> None:
    """Another disk at the same place was never read, whatever was read of the first; the first keeps what is its."""
    fill(lab)
    assert lab.run("verify", "--destination", "a", "--quiet") == 0
    other = json.loads((lab.root / "a" / "copy.json").read_text()) | {"copy": "f" * 32}
    shutil.copytree(lab.root / "a", lab.root / "other")
    (lab.root / "other" / "copy.json").write_text(json.dumps(other))
    (lab.root / "a").rename(lab.root / "away")
    (lab.root / "other").rename(lab.root / "a")
    capsys.readouterr()
    lab.run("verify", "--destination", "a", "--budget", "1kB", "--json")
    assert parsed(capsys)["destinations"]["a"]["coverage"]["percent"] < 100
    (lab.root / "a").rename(lab.root / "other")
    (lab.root / "away").rename(lab.root / "a")
    lab.run("verify", "--destination", "a", "--budget", "1kB", "--json")
    assert parsed(capsys)["destinations"]["a"]["coverage"]["percent"] == 100


def test_clones_share_no_claim(lab: HostLab, capsys: Capture) -> None:
    """Of two copies with one id, attached together, what was read of one is not claimed of the other."""
    fill(lab)
    shutil.copy(lab.root / "a" / "copy.json", lab.root / "b" / "copy.json")
    assert lab.run("verify", "--destination", "a", "--quiet") == 0
    capsys.readouterr()
    lab.run("verify", "--budget", "1kB", "--json")
    found = parsed(capsys)["destinations"]
    assert found["a"]["coverage"]["percent"] == 100 > found["b"]["coverage"]["percent"]


@pytest.mark.parametrize("budget", [[], ["--budget", "5%"]])
def test_what_was_not_listed_was_not_read(lab: HostLab, capsys: Capture, budget: list[str]) -> None:
    """Packs that a listing left out, and that are there again, do not count as read back since that run."""
    fill(lab)
    assert lab.run("verify", "--quiet") == 0
    before = copies(lab, capsys)["destinations"]["a"]["last_verified"]
    packs, away = lab.root / "a" / "packs", lab.root / "away"
    packs.rename(away)
    assert lab.run("verify", *budget) == 3
    assert "since" not in capsys.readouterr().out.split("a: missing")[0].split("\nb ")[0]
    shutil.rmtree(packs, ignore_errors=True)
    away.rename(packs)
    lab.run("verify", "--budget", "1kB", "--quiet")
    after = copies(lab, capsys)["destinations"]["a"]
    assert after["last_verified"] == before and after["coverage"]["percent"] < 100


def test_a_dry_run_reads_nothing_back(lab: HostLab, capsys: Capture) -> None:
    """It tells how much each copy has to read, and leaves no trace of having read it."""
    fill(lab)
    assert lab.run("verify", "--budget", "10%", "--dry-run", "--json") == 0
    found = parsed(capsys)
    assert found["dry_run"] and found["destinations"]["a"]["bytes"] < found["destinations"]["a"]["of_bytes"]
    assert lab.run("verify", "--dry-run") == 0
    assert "would be read" in capsys.readouterr().out
    assert copies(lab, capsys)["destinations"]["a"]["coverage"] is None


def test_a_ledger_that_cannot_be_used(lab: HostLab, capsys: Capture) -> None:
    """A verify of everything goes on without it and says so; one with a budget is refused, for it would not get on."""
    (lab.root / "state" / "readback").write_text("no folder")
    assert lab.run("verify") == 0
    assert "cannot be remembered" in capsys.readouterr().err
    assert lab.run("verify", "--by-checksum") == 0
    assert lab.run("verify", "--budget", "10%") == 1
    assert "state_dir" in capsys.readouterr().err


def test_damage_outlives_a_lost_ledger(lab: HostLab, capsys: Capture) -> None:
    """Where the ledger is gone, nobody knows which pack was damaged: status says so until everything was read again."""
    fill(lab)
    pack = lab.objects("a", "packs")[-1]
    whole = pack.read_bytes()
    flip(pack)
    assert lab.run("verify", "--destination", "a", "--quiet") == 3
    for path in (lab.root / "state" / "readback").iterdir():
        path.unlink()
    for _ in range(2):
        lab.run("verify", "--destination", "a", "--budget", "1kB", "--quiet")
        assert copies(lab, capsys)["destinations"]["a"]["state"] == "damaged"
    pack.chmod(0o600)
    pack.write_bytes(whole)
    assert lab.run("verify", "--destination", "a", "--budget", "1kB", "--quiet") == 0
    assert copies(lab, capsys)["destinations"]["a"]["state"] == "damaged"
    assert lab.run("verify", "--destination", "a", "--quiet") == 0
    assert copies(lab, capsys)["destinations"]["a"]["state"] != "damaged"


@pytest.mark.parametrize("budget", [(), ("--budget", "100%")])
def test_a_clock_that_was_wrong_leaves_no_claim(
    lab: HostLab, capsys: Capture, monkeypatch: pytest.MonkeyPatch, budget: tuple[str, ...]
) -> None:
    """A verify under a clock years ahead is told by status as such, until the next verify says what is true."""
    real = wiring.now
    with monkeypatch.context() as ahead:
        ahead.setattr(wiring, "now", lambda: real() + timedelta(days=1500))
        assert lab.run("verify", "--quiet") == 0
    lab.run("status", "data")
    assert "still to come" in capsys.readouterr().out
    assert lab.run("verify", *budget, "--quiet") == 0
    lab.run("status", "data")
    assert "still to come" not in capsys.readouterr().out
    found = copies(lab, capsys)["destinations"]["a"]
    assert found["last_verified"] < f"{real() + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"


def test_a_lost_ledger_is_told(lab: HostLab, capsys: Capture) -> None:
    """A ledger of rubbish is set aside with a warning, and everything counts as never read."""
    assert lab.run("verify", "--quiet") == 0
    (path,) = (lab.root / "state" / "readback").glob("*.sqlite")
    path.write_bytes(b"rubbish" * 100)
    capsys.readouterr()
    assert lab.run("verify", "--budget", "1kB") == 0
    out, err = capsys.readouterr()
    assert "was damaged" in err and "never yet" in out


@pytest.mark.parametrize(
    "arguments", [["--budget", "ten"], ["--budget", "0%"], ["--budget", ""], ["--budget", "5%", "--repository", "x"]]
)
def test_what_makes_no_sense_is_refused(lab: HostLab, arguments: list[str]) -> None:
    """Exit 2, and nothing was read."""
    assert main(["--config", str(lab.config), "verify", *arguments]) == 2


def test_evidence_tells_other_hosts(lab: HostLab, capsys: Capture) -> None:
    """With --evidence a small signed object lies at every copy, and a status without memory of its own knows by it."""
    fill(lab)
    assert lab.run("verify", "--budget", "30%", "--evidence", "--quiet") == 0
    assert lab.run("verify", "--evidence", "--quiet") == 0
    kept = [path for copy in "ab" for path in lab.objects(copy, "evidence")]
    assert len(kept) == 4 and all(path.stat().st_size < 2000 for path in kept)
    before = copies(lab, capsys)
    shutil.rmtree(lab.root / "state" / "verified")
    shutil.rmtree(lab.root / "state" / "readback")
    after = copies(lab, capsys)
    assert after["newest_verified"] == before["newest_verified"] is not None
    for copy in ("a", "b"):
        assert after["destinations"][copy]["last_verified"] == before["destinations"][copy]["last_verified"]
        assert after["destinations"][copy]["coverage"] == before["destinations"][copy]["coverage"]


def test_evidence_of_damage_is_not_hidden_by_a_small_run(lab: HostLab, capsys: Capture) -> None:
    """What another host found damaged stays told until all was read again, though a later small run saw nothing."""
    fill(lab)
    pack = lab.objects("a", "packs")[-1]
    whole = pack.read_bytes()
    flip(pack)
    assert lab.run("verify", "--evidence", "--quiet") == 3
    for kind in ("verified", "readback"):
        shutil.rmtree(lab.root / "state" / kind)
    # (the evidence is this host's own, but it has no memory of it any more)
    assert copies(lab, capsys)["destinations"]["a"]["state"] == "damaged"
    pack.write_bytes(whole)
    assert lab.run("verify", "--quiet") == 0
    assert copies(lab, capsys)["destinations"]["a"]["state"] == "current"


def test_a_run_without_evidence_changes_no_copy(lab: HostLab) -> None:
    """Only --evidence puts anything to a copy."""
    before = sorted(path for path in (lab.root / "a").rglob("*"))
    assert lab.run("verify", "--budget", "50%", "--quiet") == 0
    assert sorted(path for path in (lab.root / "a").rglob("*")) == before

"""Six processes write one log and are killed by signal 9 wherever they happen to be."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from opskit.audit.reading import records as records_of
from opskit.audit.segments import segments
from opskit.audit.verification import Report
from tests.audit.logs import judged, open_log, segment
from tests.telling import Tell

WRITERS = 6
LONGEST = 0.06
"""Seconds that the writers of one round live, at most."""
SEGMENT = 20_000
LINE = (
    b'{"actor":{"euid":0,"login":"anna","uid":1000,"via":"cli"},"d":{},"host":"h1","op":"backup","out":"ok","prev":"00'
)


def _write(folder: Path, name: str) -> None:
    """Append until killed; note what the log acknowledged."""
    notes = os.open(folder / "acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    log = open_log(folder, segment_size=SEGMENT)
    while True:
        head = log.append("backup", "ok", target=name, details={"padding": "x" * random.randrange(200)})
        os.write(notes, f"{head.seq} {head.sha256}\n".encode())


def _fork_writers(folder: Path) -> list[int]:
    children = []
    for number in range(WRITERS):
        child = os.fork()
        if child == 0:
            try:
                _write(folder, f"writer-{number}")
            finally:
                os._exit(1)
        children.append(child)
    return children


def _kill(children: list[int]) -> None:
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "a writer ended by itself"


def _tear(folder: Path, chance: random.Random) -> None:
    """Leave the beginning of a write behind, as a kill in the middle of one would: few kills hit that moment."""
    path = segment(folder, segments(folder / "audit")[-1].number)
    with path.open("ab") as file:
        file.write(LINE[: chance.randrange(1, len(LINE))])


def _campaign(folder: Path, rounds: int, seed: int) -> Report:
    chance, torn = random.Random(seed), 0
    for number in range(rounds):
        children = _fork_writers(folder)
        time.sleep(chance.uniform(0, LONGEST))
        _kill(children)
        if number % 3 == 2:
            _tear(folder, chance)
        before = judged(folder) if list(folder.glob("audit/log/*")) else Report()  # killed before the first write
        torn += before.torn_bytes > 0
        with open_log(folder, segment_size=SEGMENT) as log:
            log.append("backup", "ok", target="survivor")
        after = judged(folder)
        assert not before.findings and not after.findings, after.findings
        assert (after.torn_bytes, after.recovered) == (0, torn)
    _assert_all_there(folder)
    return judged(folder)


def _assert_all_there(folder: Path) -> None:
    """Everything that was acknowledged is in the log, with its number and hash."""
    listed = list(records_of(segments(folder / "audit")))
    hashes = {each["seq"] - 1: each["prev"] for each in listed}
    for line in (folder / "acknowledged").read_text().splitlines():
        seq, digest = line.split(" ")
        assert hashes[int(seq)] == digest


def test_killed_writers(tmp_path: Path) -> None:
    """After each of 25 rounds the chain verifies, each torn tail is told of, and what was acknowledged is there."""
    report = _campaign(tmp_path, 25, seed=1)
    assert report.recovered >= 8 and report.segments > 1 and report.records > 100


@pytest.mark.campaign
def test_killed_writers_often(tmp_path: Path, tell: Tell) -> None:
    """The same for forty logs."""
    records = torn = 0
    for seed in range(40):
        folder = tmp_path / str(seed)
        folder.mkdir()
        report = _campaign(folder, 25, seed)
        records, torn = records + report.records, torn + report.recovered
    tell(f"killed a thousand times: {records:,} records, {torn:,} torn tails, all recorded")

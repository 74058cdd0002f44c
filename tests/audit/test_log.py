"""Appending: order, segments, torn tails, and what a disk may do."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta, timezone
from pathlib import Path

import pytest

from opskit.audit import log as log_module
from opskit.audit.event import operation
from opskit.audit.log import SEGMENT_SIZE
from opskit.audit.reading import records
from opskit.audit.record import MAX_LINE, Fields, genesis, parse, sha256
from opskit.audit.segments import segments
from opskit.audit.tail import BLOCK, Span, read_growth, read_tail
from opskit.errors import AuditError
from tests.audit.logs import BEGIN, judged, make_log, open_log, segment, ticking
from tests.stores.mounts import mounted


def lines(path: Path) -> list[bytes]:
    """The lines of a segment."""
    return path.read_bytes().split(b"\n")[:-1]


def ops(folder: Path) -> list[str]:
    """The operations of all records, in order."""
    return [record["op"] for record in records(segments(folder / "audit"))]


def test_the_chain_is_what_the_format_page_says(tmp_path: Path) -> None:
    """Records are numbered from 1, and each names the hash of the line before it; the first names the log's id."""
    found = lines(make_log(tmp_path, 3))
    parsed = [parse(line) for line in found]
    assert [each["seq"] for each in parsed] == [1, 2, 3, 4]
    assert (parsed[0]["op"], parsed[0]["d"]["segment"]) == ("audit.open", 1)
    assert [each["prev"] for each in parsed] == [genesis(parsed[0]["d"]["log"]), *map(sha256, found[:-1])]
    assert parsed[1]["actor"] == {"euid": 0, "login": "anna", "uid": 1000, "via": "cli"}
    assert parsed[1]["host"] == "h1"


def test_times_are_in_utc_to_the_microsecond(tmp_path: Path) -> None:
    """Whatever the time zone of the clock, a record has UTC and six digits."""
    with open_log(tmp_path, now=lambda: BEGIN.astimezone(timezone(timedelta(hours=2)))) as log:
        log.append("backup", "ok")
    assert parse(lines(segment(tmp_path))[0])["ts"] == "2026-11-22T02:30:00.000000Z"


@pytest.mark.parametrize("step", [1, 400_000, -400_000, 3_600_000_000, -86_400_000_000])
def test_times_are_told_to_the_microsecond_however_the_clock_goes(tmp_path: Path, step: int) -> None:
    """Within a second and over its end, forwards and backwards, each record has the time that the clock gave."""
    moments = [BEGIN + number * timedelta(microseconds=step) for number in range(8)]
    clock = iter(moments)
    with open_log(tmp_path, now=lambda: next(clock)) as log:
        for _ in moments[1:]:
            log.append("backup", "ok")
    found = [parse(line)["ts"] for line in lines(segment(tmp_path))]
    assert found == [f"{each:%Y-%m-%dT%H:%M:%S.%f}Z" for each in moments]


def test_append_returns_what_to_note_elsewhere(tmp_path: Path) -> None:
    """The number and hash that an append returns are those of its record."""
    with open_log(tmp_path) as log:
        head = log.append("backup", "ok")
    assert (head.seq, head.sha256) == (2, sha256(lines(segment(tmp_path))[-1]))
    assert judged(tmp_path).head == head


def test_files_are_private(tmp_path: Path) -> None:
    """Folders are 0700 and files 0600, whatever the umask."""
    umask = os.umask(0)
    try:
        make_log(tmp_path)
    finally:
        os.umask(umask)
    found = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "audit").rglob("*")}
    assert set(found.values()) == {0o600, 0o700} and (tmp_path / "audit").stat().st_mode & 0o777 == 0o700
    assert all((mode == 0o700) == path.is_dir() for path, mode in found.items())


def test_segments(tmp_path: Path) -> None:
    """A full segment is sealed and the next one opened; number and chain go on, in this process and in the next."""
    for _ in range(3):
        with open_log(tmp_path, segment_size=1000) as log:
            for number in range(5):
                log.append("backup", "ok", target=str(number))
    report = judged(tmp_path)
    assert not report.findings and not report.warnings and report.segments > 3
    for number in range(1, report.segments + 1):
        found = [parse(line) for line in lines(segment(tmp_path, number))]
        assert found[0]["op"] == "audit.open" and found[0]["d"] == {"log": report.log_id, "segment": number}
        assert (found[-1]["op"] == "audit.seal") == (number < report.segments)
    assert [each["tgt"] for each in records(segments(tmp_path / "audit")) if each["op"] == "backup"] == list(
        "01234"
    ) * 3


def test_threads_and_processes_take_turns(tmp_path: Path) -> None:
    """Threads of one log, a forked child and another log of the same folder all find their place, across segments."""
    log, other = open_log(tmp_path, segment_size=4000), open_log(tmp_path, segment_size=4000)

    def write(to: log_module.AuditLog, name: str) -> None:
        for _ in range(40):
            to.append("backup", "ok", target=name)

    log.append("backup", "ok", target="before the fork")
    child = os.fork() if threading.active_count() == 1 else None
    if child == 0:
        try:
            write(log, "child")
        finally:
            os._exit(0)
    threads = [
        threading.Thread(target=write, args=(each, name)) for name, each in zip("abc", (log, log, other), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if child is not None:
        assert os.waitpid(child, 0)[1] == 0
    log.close()
    other.close()
    report = judged(tmp_path)
    assert not report.findings and report.segments > 5
    names = [each["tgt"] for each in records(segments(tmp_path / "audit")) if each["op"] == "backup"]
    assert {name: names.count(name) for name in "abc"} == {"a": 40, "b": 40, "c": 40}
    assert names.count("child") == (40 if child is not None else 0)


def test_every_byte_offset_of_the_last_record_torn(tmp_short: Path) -> None:
    """Wherever the last record is cut, the next append leaves all bytes in place, tells of them, and verifies."""
    whole = make_log(tmp_short / "whole", 2).read_bytes()
    begin = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(begin, len(whole)):
        folder = tmp_short / str(cut)
        folder.mkdir()
        shutil.copytree(tmp_short / "whole" / "audit", folder / "audit")
        os.truncate(segment(folder), cut)
        assert judged(folder).torn_bytes == (cut - begin)
        with open_log(folder) as log:
            log.append("backup", "ok")
        assert segment(folder).read_bytes().startswith(whole[:cut])
        report = judged(folder)
        assert not report.findings and report.recovered == (cut > begin), (cut, report.findings)
        shutil.rmtree(folder)


def test_every_byte_offset_of_the_first_records_torn(tmp_short: Path) -> None:
    """The same for the very first write of a log: it begins anew behind what is torn."""
    whole = make_log(tmp_short / "whole", 1).read_bytes()
    for cut in range(len(whole)):
        folder = tmp_short / str(cut)
        segment(folder).parent.mkdir(parents=True)
        segment(folder).write_bytes(whole[:cut])
        with open_log(folder) as log:
            log.append("backup", "ok")
        report = judged(folder)
        torn = cut not in (0, whole.index(b"\n") + 1)
        assert not report.findings and report.recovered == torn, (cut, report.findings)
        shutil.rmtree(folder)


def test_every_byte_offset_of_a_recovery_torn(tmp_short: Path) -> None:
    """A recovery that is itself cut off anywhere is recovered from, and both regions are told of."""
    path = make_log(tmp_short / "whole", 1)
    with path.open("ab") as file:
        file.write(b'{"actor":')
    torn = path.stat().st_size
    with open_log(tmp_short / "whole") as log:
        log.append("backup", "ok")
    whole = path.read_bytes()
    for cut in range(torn, len(whole)):
        folder = tmp_short / str(cut)
        shutil.copytree(tmp_short / "whole" / "audit", folder / "audit")
        os.truncate(segment(folder), cut)
        with open_log(folder) as log:
            log.append("backup", "ok")
        report = judged(folder)
        assert not report.findings and report.recovered >= 1 and report.torn_bytes == 0, (cut, report.findings)
        shutil.rmtree(folder)


def test_every_byte_offset_of_a_change_of_segments_torn(tmp_short: Path) -> None:
    """A crash anywhere between the last record of a segment and the first of the next leaves a log that goes on."""
    with open_log(tmp_short / "whole", segment_size=500) as log:
        log.append("backup", "ok", target="one")
        log.append("backup", "ok", target="two")
    first, second = segment(tmp_short / "whole").read_bytes(), segment(tmp_short / "whole", 2).read_bytes()
    seal = first.rindex(b"\n", 0, -1) + 1
    states = [(first[:cut], None) for cut in range(seal, len(first) + 1)]
    states += [(first, second[:cut]) for cut in range(len(second))]
    for number, (one, two) in enumerate(states):
        folder = tmp_short / str(number)
        segment(folder).parent.mkdir(parents=True)
        segment(folder).write_bytes(one)
        if two is not None:
            segment(folder, 2).write_bytes(two)
        with open_log(folder, segment_size=500) as log:
            log.append("backup", "ok", target="three")
        report = judged(folder)
        assert not report.findings and not report.warnings, (number, report)
        shutil.rmtree(folder)


def test_junk_behind_a_seal(tmp_path: Path) -> None:
    """What something wrote behind a seal before the next segment was made is told of; the segment is sealed again."""
    with open_log(tmp_path, segment_size=500) as log:
        log.append("backup", "ok")
        log.append("backup", "ok")
    segment(tmp_path, 2).unlink()
    with segment(tmp_path).open("ab") as file:
        file.write(b"junk")
    with open_log(tmp_path, segment_size=500) as log:
        log.append("backup", "ok")
    report = judged(tmp_path)
    assert not report.findings and (report.recovered, report.segments) == (1, 2)
    assert ops(tmp_path).count("audit.seal") == 2


def test_a_torn_region_longer_than_any_block(tmp_path: Path) -> None:
    """Megabytes of zeros or of lines behind the last record are told of, and nothing of them is removed."""
    for number, junk in enumerate((b"\0" * 3_000_000, b"junk\n" * 30_000, b"\n", b"x" * 20_000 + b"\n")):
        folder = tmp_path / str(number)
        path = make_log(folder, 2)
        with path.open("ab") as file:
            file.write(junk)
        assert judged(folder).torn_bytes == len(junk)
        with open_log(folder) as log:
            log.append("backup", "ok")
        report = judged(folder)
        assert not report.findings and report.recovered == 1, report.findings
        assert junk in path.read_bytes()


def test_a_log_that_shrinks_under_a_running_process_shows(tmp_path: Path) -> None:
    """Whoever cuts the log, changes its end or removes it while a process writes leaves a break that verify sees."""
    for number, tamper in enumerate((_cut_off, _replace, _remove)):
        folder = tmp_path / str(number)
        with open_log(folder) as log:
            for _ in range(4):
                log.append("backup", "ok", target="data")
            tamper(folder)
            log.append("backup", "ok")
        assert judged(folder).findings, tamper


def _cut_off(folder: Path) -> None:
    path = segment(folder)
    os.truncate(path, path.read_bytes().rindex(b"\n", 0, -1) + 1)


def _replace(folder: Path) -> None:
    path = segment(folder)
    path.write_bytes(path.read_bytes().replace(b'"data"', b'"date"'))


def _remove(folder: Path) -> None:
    shutil.rmtree(folder / "audit" / "log")


def test_a_log_that_others_made_longer_after_it_shrank_shows(tmp_path: Path) -> None:
    """Also if it has more records than the process remembers by then, and another process wrote them."""
    for number, tamper in enumerate((_cut_off, _replace, _empty)):
        folder = tmp_path / str(number)
        with open_log(folder) as log, open_log(folder) as other:
            for _ in range(4):
                log.append("backup", "ok", target="data")
            tamper(folder)
            for _ in range(8):
                other.append("backup", "ok")
            assert number or judged(folder).is_settled
            log.append("backup", "ok")
        assert judged(folder).findings, tamper


def _empty(folder: Path) -> None:
    os.truncate(segment(folder), 0)


def test_a_log_that_was_moved_away_is_begun_at_its_name(tmp_path: Path) -> None:
    """After somebody moved the segment, records do not go on into the moved file."""
    with open_log(tmp_path) as log:
        log.append("backup", "ok")
        moved = segment(tmp_path).rename(tmp_path / "moved")
        size = moved.stat().st_size
        log.append("backup", "ok")
        assert moved.stat().st_size == size and segment(tmp_path).stat().st_size > 0


def test_what_others_wrote_is_learned_as_from_the_whole_file(tmp_path: Path) -> None:
    """Looking at the end from a known record on gives what looking at the whole file does, wherever the file ends."""
    path = make_log(tmp_path, 3)
    whole = path.read_bytes()
    first, second, *_ = lines(path)
    known = Span(len(first) + 1, len(first) + 1 + len(second))
    seen = 0
    for size in range(known.begin, len(whole) + 1):
        os.truncate(path, 0)
        path.write_bytes(whole[:size])
        with path.open("rb") as file:
            if (grown := read_growth(file.fileno(), known, size)) is not None:
                assert grown == (read_tail(file.fileno(), size), sha256(second))
                seen += 1
    assert seen == 2
    path.write_bytes(whole.replace(b'"data-0"', b'"data-X"'))
    with path.open("rb") as file:
        grown = read_growth(file.fileno(), known, len(whole))
    assert grown is not None and grown[1] != sha256(second)


def test_a_failed_sync_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After fdatasync failed once, nothing is taken for recorded any more, even if the next one would succeed."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with open_log(tmp_path) as log:
        log.append("backup", "ok")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(AuditError, match="input/output error"):
                log.append("backup", "ok")
        with pytest.raises(AuditError, match="failed before"):
            log.append("backup", "ok")


def test_the_medium_has_the_record_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced after the write, and a new file's folder too."""
    synced: list[tuple[str, int]] = []
    fdatasync, fsync = os.fdatasync, os.fsync

    def note_file(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))
        fdatasync(descriptor)

    def note_folder(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), 0))
        fsync(descriptor)

    monkeypatch.setattr(os, "fdatasync", note_file)
    monkeypatch.setattr(os, "fsync", note_folder)
    path = make_log(tmp_path, 1)
    assert synced[-1] == (str(path), path.stat().st_size)
    assert {(str(each), 0) for each in (tmp_path, tmp_path / "audit", path.parent)} <= set(synced)


@pytest.mark.parametrize("is_empty", [True, False])
def test_names_are_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_empty: bool) -> None:
    """By the first that writes to a file, also if another one made it and was killed; nobody else pays for that."""
    path = make_log(tmp_path)
    if is_empty:
        os.truncate(path, 0)
    synced: list[str] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    with open_log(tmp_path) as log:
        log.append("backup", "ok")
    names = [str(each) for each in (path, path.parent, tmp_path / "audit", tmp_path)] if is_empty else []
    assert synced == [*names, str(path)]


def test_a_sealed_segment_is_on_the_medium_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a power cut could leave the next one without what it follows."""
    synced: list[tuple[str, int]] = []
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
    )
    with open_log(tmp_path, segment_size=500) as log:
        log.append("backup", "ok")
        log.append("backup", "ok")
    first, second = segment(tmp_path), segment(tmp_path, 2)
    assert (str(first), first.stat().st_size) in synced[: synced.index((str(second), 0)) + 1]


def test_a_log_of_a_newer_opskit_is_left_alone(tmp_path: Path) -> None:
    """A last record of a later version is not taken for a torn one."""
    path = make_log(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(b'"v":1}', b'"v":2}'))
    before = path.read_bytes()
    with open_log(tmp_path) as log, pytest.raises(AuditError, match="version 1, got 2"):
        log.append("backup", "ok")
    assert path.read_bytes() == before


@pytest.mark.parametrize("junk", [b'{"v":0}', b'{"v":2}', b'{"v":0}\n', b'{"v":9}\n', b"}\n" * 9])
def test_junk_with_a_version(tmp_path: Path, junk: bytes) -> None:
    """What merely has a `v` is a torn region like any other, and stops nothing."""
    path = make_log(tmp_path, 1)
    with path.open("ab") as file:
        file.write(junk)
    with open_log(tmp_path) as log:
        log.append("backup", "ok")
    report = judged(tmp_path)
    assert report.is_settled and report.recovered == 1


def test_a_huge_region_does_not_fill_the_memory(tmp_path: Path) -> None:
    """200 MiB that hold no record are recovered from with a few MiB of memory, whatever a record lies before."""
    path = make_log(tmp_path, 2)
    end = path.stat().st_size
    os.truncate(path, end + 200 * 1024 * 1024)
    with path.open("rb") as file:
        tracemalloc.start()
        try:
            tail = read_tail(file.fileno(), path.stat().st_size)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert tail.head is not None and tail.head.seq == 3 and tail.span is not None and tail.span.end == end - 1
    assert tail.torn is not None and tail.torn.size == 200 * 1024 * 1024 and peak < 8 * 1024 * 1024


@pytest.mark.parametrize("record", range(2))
def test_the_last_record_is_found_wherever_blocks_end(tmp_path: Path, record: int) -> None:
    """Junk of any length near the sizes of blocks, with LFs and braces or without, hides no record."""
    path = make_log(tmp_path, 2)
    whole = path.read_bytes()
    whole = whole if record else whole[: whole.rindex(b"\n", 0, -1) + 1]
    line = whole.split(b"\n")[-2]
    first = 2 * MAX_LINE
    sizes = {base + delta for base in (first, first + BLOCK) for delta in (-len(line) - 1, -len(line), -1, 0, 1)}
    for size, junk in itertools.product(sizes, (b"\0", b"x" * 99 + b"}\n", b"\n")):
        region = (junk * size)[:size]
        path.write_bytes(whole + region)
        with path.open("rb") as file:
            tail = read_tail(file.fileno(), len(whole) + size)
        assert tail.head is not None and tail.head.sha256 == sha256(line), size
        assert tail.torn is not None and tail.torn[:2] == (size, sha256(region))


def test_a_record_without_lf_is_adopted_behind_any_length(tmp_path: Path) -> None:
    """A torn recovery of a long region, whole but for its LF, counts once it has got it."""
    path = make_log(tmp_path, 1)
    with path.open("ab") as file:
        file.write(b"x" * 3_000_000)
    with open_log(tmp_path) as log:
        log.append("backup", "ok")
    whole = path.read_bytes()
    os.truncate(path, whole.index(b'{"actor"', whole.index(b"xxx")) + len(whole.split(b"\n")[-3]))
    with open_log(tmp_path) as log:
        log.append("backup", "ok")
    report = judged(tmp_path)
    assert report.is_settled and report.recovered == 2 and b'"adopted"' in path.read_bytes()


class Waiting:
    """Sleeps not at all, and adds up for how long; `then` happens at the first time."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.seconds, self._then = 0.0, then

    def __call__(self, seconds: float) -> None:
        if not self.seconds:
            self._then()
        self.seconds += seconds


@contextmanager
def held_lock(folder: Path) -> Iterator[int]:
    """The lock of a log, held as by another process; gives the descriptor."""
    descriptor = os.open(folder / "audit" / "lock", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_lock_that_is_never_let_go(tmp_path: Path) -> None:
    """After its patience, an append and a reader raise AuditError that says how to find the holder; nothing is left."""
    path = make_log(tmp_path)
    before, waiting = path.read_bytes(), Waiting()
    with held_lock(tmp_path):
        with open_log(tmp_path, sleep=waiting) as log, pytest.raises(AuditError, match="for 30 s") as caught:
            log.append("backup", "ok")
        assert 30 <= waiting.seconds < 31 and "fuser" in str(caught.value.hint)
        with open_log(tmp_path, sleep=(waiting := Waiting())) as log:
            told: list[AuditError] = []
            with operation(log, "restore", on_failure="warn", warn=told.append):
                pass
        assert ["for 5 s" in str(each) for each in told] == [True, True] and 10 <= waiting.seconds < 11
        with pytest.raises(AuditError, match="for 5 s"):
            segments(tmp_path / "audit", waiting)
        assert 15 <= waiting.seconds < 16
    assert path.read_bytes() == before


def test_a_lock_that_is_let_go_in_time(tmp_path: Path) -> None:
    """An append that had to wait is written."""
    make_log(tmp_path)
    with held_lock(tmp_path) as lock:
        waiting = Waiting(lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        with open_log(tmp_path, sleep=waiting) as log:
            log.append("backup", "ok")
    assert 0 < waiting.seconds < 1 and judged(tmp_path).is_settled


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for somebody else")
@pytest.mark.parametrize("fits", [True, False])
def test_what_root_makes_belongs_to_the_owner_of_the_state(tmp_path: Path, fits: bool) -> None:
    """Folders, lock and every segment have the owner and group of the state folder, however much was there before."""
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 12345, 23456)
    with open_log(state, segment_size=SEGMENT_SIZE if fits else 500) as log:
        for _ in range(4):
            log.append("backup", "ok")
    made = [state / "audit", *(state / "audit").rglob("*")]
    assert len(made) >= 4 and {(each.stat().st_uid, each.stat().st_gid) for each in made} == {(12345, 23456)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for somebody else")
def test_what_root_makes_elsewhere_is_given_to_nobody(tmp_path: Path) -> None:
    """Where the owner of the state put a link in place of a folder, he gets no file in the folder it leads to."""
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    state.mkdir()
    elsewhere.mkdir()
    os.chown(state, 12345, 23456)
    (state / "audit").symlink_to(elsewhere)
    with open_log(state) as log:
        log.append("backup", "ok")
    assert {each.stat().st_uid for each in elsewhere.rglob("*")} == {0}


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """Neither the lock nor a segment may be a symbolic link."""
    for name in ("lock", "log/0000000001.jsonl"):
        folder = tmp_path / name.replace("/", "-")
        (folder / "audit" / "log").mkdir(parents=True)
        (folder / "target").write_bytes(b"")
        (folder / "audit" / name).symlink_to(folder / "target")
        with open_log(folder) as log, pytest.raises(AuditError, match="cannot be written"):
            log.append("backup", "ok")
        assert (folder / "target").read_bytes() == b""


def test_a_full_disk(tmp_path: Path) -> None:
    """Without space an append raises AuditError; when there is space again, what it left is told of."""
    with mounted("tmpfs", tmp_path, size=64 * 1024) as place:
        with open_log(place) as log:
            log.append("backup", "ok")
            with pytest.raises(AuditError, match="no space left") as caught:
                for number in range(1000):
                    log.append("backup", "ok", target=f"{number}", details={"x": "y" * 1000})
            assert caught.value.exit_code == 1 and caught.value.hint
            torn = judged(place).torn_bytes
            (place / "ballast").touch()
            subprocess.run(["mount", "-o", "remount,size=256k", str(place)], check=True)
            log.append("backup", "ok")
        report = judged(place)
        assert torn and not report.findings and report.recovered == 1


def test_append_only_files(tmp_path: Path) -> None:
    """With `chattr +a` on every file, records, recoveries and new segments are written, and nothing can be cut off."""
    with mounted("ext4", tmp_path) as place:
        with open_log(place, segment_size=2000) as log:
            log.append("backup", "ok")
        if subprocess.run(["chattr", "+a", str(segment(place))], capture_output=True, check=False).returncode:
            pytest.skip("ext4: chattr +a is not permitted here")
        subprocess.run(["chattr", "-R", "+a", str(place / "audit")], check=True)
        try:
            with segment(place).open("ab") as file:
                file.write(b'{"actor":{"euid')
            with pytest.raises(PermissionError):
                os.truncate(segment(place), 10)
            for number in range(10):
                with open_log(place, segment_size=2000) as log:
                    log.append("backup", "ok", target=str(number))
            report = judged(place)
            assert not report.findings and report.recovered == 1 and report.segments > 1
        finally:
            subprocess.run(["chattr", "-R", "-a", str(place / "audit")], check=True)


def test_a_clock_that_goes_back_is_only_a_warning(tmp_path: Path) -> None:
    """Order is the number, never the time."""
    with open_log(tmp_path, now=ticking(timedelta(seconds=-1))) as log:
        log.append("backup", "ok")
        log.append("backup", "ok")
    report = judged(tmp_path)
    assert report.is_whole and report.warnings_count == 2 and "clock" in report.warnings[0].message


def test_a_long_run_of_details_is_bounded(tmp_path: Path) -> None:
    """However much is told, a line stays below its limit and the log verifies."""
    fields: Fields = {"names": ["x" * 100] * 10_000}
    with open_log(tmp_path, now=lambda: BEGIN) as log:
        log.append("restore", "ok", target="t" * 100_000, details=fields)
    assert len(lines(segment(tmp_path))[-1]) <= MAX_LINE and not judged(tmp_path).findings

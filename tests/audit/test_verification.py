"""What `verify` sees of tampering and damage, and what it cannot see."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from opskit.audit import verification
from opskit.audit.reading import entries
from opskit.audit.record import Fields, genesis, parse, sha256
from opskit.errors import AuditError, AuditLogNotFound
from tests.audit.logs import judged, line_of, make_log, open_log, segment


def is_good(folder: Path) -> bool:
    """What exit code 0 stands for."""
    return judged(folder).is_settled


def rewrite(folder: Path, lines: list[bytes]) -> bool:
    """Put other lines into the segment; whether the log still verifies."""
    segment(folder).write_bytes(b"".join(line + b"\n" for line in lines))
    report = judged(folder)
    return report.is_whole and report.torn_bytes == 0


def chained(lines: list[bytes], start: int) -> list[bytes]:
    """The lines with numbers and hashes made to fit from `start` on, as somebody who knows the format would."""
    found = lines[:start]
    for line in lines[start:]:
        record = parse(line)
        found.append(line_of(record, len(found) + 1, sha256(found[-1]), record["ts"]))
    return found


def test_a_log_nobody_touched_is_whole(tmp_path: Path) -> None:
    """Counts, times and head are those of the log."""
    make_log(tmp_path, 5)
    report = judged(tmp_path)
    assert is_good(tmp_path) and (report.records, report.segments, report.recovered) == (6, 1, 0)
    assert report.head is not None and report.head.seq == 6 and report.first < report.last


def test_every_single_byte_flip(tmp_short: Path) -> None:
    """Any byte of any record but the last, changed to any of several others, is objected to, and the place is named."""
    path = make_log(tmp_short, 3)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for position, mask in itertools.product(range(last), (1, 2, 32, 128)):
        changed = bytearray(whole)
        changed[position] ^= mask
        path.write_bytes(changed)
        report = judged(tmp_short)
        if position < last - 1:
            assert report.findings, (position, mask)
            at = whole.count(b"\n", 0, position) + 1
            assert abs(report.findings[0].line - at) <= 1, (position, mask, report.findings)
        else:
            assert report.torn_bytes, (position, mask)


def test_a_flip_in_the_last_record_shows_unless_it_stays_in_the_grammar(tmp_short: Path) -> None:
    """The last record is guarded by its form alone until another follows: the limit that docs/audit.md tells."""
    path = make_log(tmp_short, 2)
    whole = path.read_bytes()
    unseen = 0
    for position in range(whole.rindex(b"\n", 0, -1) + 1, len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        if is_good(tmp_short):
            unseen += 1
            assert parse(bytes(changed).split(b"\n")[-2]) != parse(whole.split(b"\n")[-2])
    assert unseen > 0


@pytest.mark.parametrize("number", range(5))
def test_a_line_deleted_doubled_swapped_or_inserted(tmp_path: Path, number: int) -> None:
    """Each of these, at each line, is objected to, whether numbers and hashes are patched in that line or not."""
    lines = make_log(tmp_path, 5).read_bytes().split(b"\n")[:-1]
    record = parse(lines[number])
    forged = line_of({**record, "tgt": "forged"}, number + 2, sha256(lines[number]), record["ts"])
    swapped = [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]
    assert not rewrite(tmp_path, lines[:number] + lines[number + 1 :])
    assert not rewrite(tmp_path, [*lines[: number + 1], *lines[number:]])
    assert not rewrite(tmp_path, swapped)
    assert not rewrite(tmp_path, [*lines[: number + 1], forged, *lines[number + 1 :]])
    assert not rewrite(tmp_path, [*lines[:number], b"", *lines[number:]])
    assert rewrite(tmp_path, lines)


def test_what_is_found_is_told_once_and_with_its_place(tmp_path: Path) -> None:
    """One changed record is one finding at the line behind it: what was expected there and what was found."""
    path = make_log(tmp_path, 5)
    path.write_bytes(path.read_bytes().replace(b'"data-1"', b'"data-9"'))
    (finding,) = judged(tmp_path).findings
    assert (finding.file, finding.line) == ("0000000001.jsonl", 4) and "expected prev" in finding.message


def test_a_recovery_that_tells_something_else(tmp_path: Path) -> None:
    """A torn region is excused only by a record with its length and its hash, directly behind it."""
    path = make_log(tmp_path, 1)
    with path.open("ab") as file:
        file.write(b"torn")
    with open_log(tmp_path) as log:
        log.append("backup", "ok")
    assert is_good(tmp_path) and judged(tmp_path).recovered == 1
    lines = path.read_bytes().split(b"\n")[:-1]
    for junk in ([b"tarn"], [b"tor"], [b"torn", b""], [b"torn", b"torn"], []):
        assert not rewrite(tmp_path, [*lines[:2], *junk, *lines[3:]]), junk
    without = [*lines[:3], *lines[4:]]
    assert not rewrite(tmp_path, without)


def make_segments(folder: Path) -> int:
    """A log of several segments; returns how many."""
    with open_log(folder, segment_size=1000) as log:
        for number in range(12):
            log.append("backup", "ok", target=str(number))
    assert is_good(folder)
    return judged(folder).segments


def test_a_removed_segment(tmp_path: Path) -> None:
    """The first segment or one in the middle missing is objected to by number."""
    count = make_segments(tmp_path)
    assert count >= 3
    for number in range(1, count):
        kept = segment(tmp_path, number).read_bytes()
        segment(tmp_path, number).unlink()
        assert f"segment {number} missing" in judged(tmp_path).findings[0].message
        segment(tmp_path, number).write_bytes(kept)
    assert is_good(tmp_path)


def test_segments_have_to_join(tmp_path: Path) -> None:
    """Swapped segments, a segment without its seal, records behind a seal and an empty one between are objected to."""
    make_segments(tmp_path)
    first, second = segment(tmp_path, 1).read_bytes(), segment(tmp_path, 2).read_bytes()
    without_seal = first[: first.rindex(b"\n", 0, -1) + 1]
    last = second.split(b"\n")[1] + b"\n"
    without_open = second[second.index(b"\n") + 1 :]
    for one, two in (
        (second, first),
        (without_seal, second),
        (first + last, second),
        (first + b"junk", second),
        (first, without_open),
        (first, b""),
        (b"", second),
    ):
        segment(tmp_path, 1).write_bytes(one)
        segment(tmp_path, 2).write_bytes(two)
        assert judged(tmp_path).findings, (one[-50:], two[:50])


def test_what_the_hashes_do_not_hold(tmp_path: Path) -> None:
    """Numbers, and what the log's own records tell, are judged although every hash fits."""
    lines = make_log(tmp_path, 3).read_bytes().split(b"\n")[:-1]
    record, log_id = parse(lines[1]), parse(lines[0])["d"]["log"]
    size = len(lines[0]) + 1

    def with_second(op: str, details: Fields, *more: bytes) -> bool:
        second = line_of({**record, "op": op, "d": details}, 2, sha256(lines[0]), record["ts"])
        return rewrite(tmp_path, chained([lines[0], second, *more], 2))

    assert with_second("audit.seal", {"bytes": size, "segment": 1})
    assert not with_second("audit.seal", {"bytes": size + 1, "segment": 1})
    assert not with_second("audit.seal", {"bytes": size, "segment": 2})
    assert not with_second("audit.seal", {"bytes": size, "segment": 1}, lines[2])
    assert not with_second("audit.open", {"log": log_id, "segment": 1})
    assert with_second("audit.recovered", {"bytes": size - 1, "kind": "adopted", "sha256": sha256(lines[0])})
    assert not with_second("audit.recovered", {"bytes": 1, "kind": "adopted", "sha256": "0" * 64})
    assert not with_second("audit.recovered", {"bytes": 4, "kind": "torn", "sha256": sha256(b"torn")})
    for details in ({"log": "x", "segment": 2}, {"log": "y", "segment": 1}):
        first = line_of({**parse(lines[0]), "d": details}, 1, genesis("x"), record["ts"])
        assert not rewrite(tmp_path, chained([first, *lines[1:]], 1))
    no_open = line_of({**record, "d": {"log": "x"}}, 1, genesis("x"), record["ts"])
    assert not rewrite(tmp_path, chained([no_open, *lines[1:]], 1))
    skipped = line_of(record, 3, sha256(lines[0]), record["ts"])
    assert not rewrite(tmp_path, [lines[0], skipped])


def test_a_torn_region_is_told_of_in_every_respect(tmp_path: Path) -> None:
    """A recovery with the right hash, and the wrong length or kind, excuses nothing."""
    lines = make_log(tmp_path, 1).read_bytes().split(b"\n")[:-1]
    record = parse(lines[1])
    told: Fields = {"bytes": 4, "kind": "torn", "sha256": sha256(b"torn")}
    for changes in ({}, {"bytes": 5}, {"kind": "adopted"}, {"sha256": "0" * 64}):
        fields = {**record, "op": "audit.recovered", "d": {**told, **changes}}
        recovery = line_of(fields, 3, sha256(lines[1]), record["ts"])
        assert rewrite(tmp_path, [*lines, b"torn", recovery]) == (not changes)


def test_a_segment_without_its_seal_is_objected_to(tmp_path: Path) -> None:
    """Also if the next segment was chained to what is left."""
    make_segments(tmp_path)
    for number in range(3, judged(tmp_path).segments + 1):
        segment(tmp_path, number).unlink()
    first, second = (segment(tmp_path, number).read_bytes().split(b"\n")[:-1] for number in (1, 2))
    together = chained([*first[:-1], *second[:-1]], len(first) - 1)
    for number, lines in ((1, together[: len(first) - 1]), (2, together[len(first) - 1 :])):
        segment(tmp_path, number).write_bytes(b"".join(line + b"\n" for line in lines))
    (finding,) = judged(tmp_path).findings
    assert "expected audit.seal" in finding.message and finding.file == "0000000001.jsonl"


def test_what_it_cannot_see(tmp_path: Path) -> None:
    """Records cut off at the end and a log rewritten as a whole do verify; only a head kept elsewhere differs."""
    path = make_log(tmp_path, 5)
    whole, head = path.read_bytes(), judged(tmp_path).head
    lines = whole.split(b"\n")[:-1]
    assert rewrite(tmp_path, lines[:-2]) and judged(tmp_path).head != head
    forged = [lines[0], lines[1].replace(b"data-0", b"data-X"), *lines[2:]]
    assert rewrite(tmp_path, chained(forged, 2)) and judged(tmp_path).head != head


def test_unfinished_operations(tmp_path: Path) -> None:
    """A start without an outcome is listed with who began it; run, operation and target join the two."""
    with open_log(tmp_path) as log:
        for op, target, run in (("a", "x", "1"), ("a", "x", "2"), ("b", "x", "1"), ("a", "y", "1"), ("a", "x", "1")):
            log.append(op, "start", target=target, run=run)
        log.append("a", "ok", target="x", run="1")
        log.append("a", "fail", target="y", run="1")
    report = judged(tmp_path)
    assert [(each.op, each.target, each.run) for each in report.unfinished] == [
        ("a", "x", "1"), ("a", "x", "2"), ("b", "x", "1"),
    ]  # fmt: skip
    assert report.unfinished[0].login == "anna" and report.is_whole


def test_findings_are_counted_beyond_what_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log broken at every line does not fill the memory with complaints."""
    monkeypatch.setattr(verification, "MAX_TOLD", 3)
    lines = make_log(tmp_path, 20).read_bytes().split(b"\n")[:-1]
    rewrite(tmp_path, lines[::-1])
    report = judged(tmp_path)
    assert len(report.findings) == 3 and report.findings_count > 20


def test_another_version_is_named(tmp_path: Path) -> None:
    """A record of a format that this opskit does not know is objected to as such."""
    path = make_log(tmp_path, 3)
    path.write_bytes(path.read_bytes().replace(b'"v":1}', b'"v":2}', 2))
    assert "version 1, got 2" in judged(tmp_path).findings[0].message


def test_no_log_and_an_unreadable_one(tmp_path: Path) -> None:
    """Where there is none that is told apart from one that cannot be read."""
    with pytest.raises(AuditLogNotFound) as caught:
        judged(tmp_path)
    assert caught.value.exit_code == 10
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "log").write_bytes(b"in the way")
    with pytest.raises(AuditError, match="cannot be read"):
        judged(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_segment_that_is_no_file(tmp_path: Path, kind: str, number: int) -> None:
    """It is a finding, at its name; nothing is followed or waited for, and other readers refuse it."""
    make_segments(tmp_path)
    path = segment(tmp_path, number)
    kept = path.rename(tmp_path / "kept")
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(kept)
    else:
        os.mkfifo(path)
    found = [each.message for each in judged(tmp_path).findings if each.file == path.name]
    assert "expected a regular file, got something else" in found
    with pytest.raises(AuditError, match="not a regular file"):
        list(entries(tmp_path / "audit"))


def test_a_lock_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    """Readers raise AuditError."""
    make_log(tmp_path)
    lock = tmp_path / "audit" / "lock"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(AuditError, match="cannot be read"):
        judged(tmp_path)


def test_an_emptied_log(tmp_path: Path) -> None:
    """No record at all may be what a killed writer left, and is told: it is not settled."""
    path = make_log(tmp_path)
    os.truncate(path, 0)
    report = judged(tmp_path)
    assert report.is_whole and not report.is_settled and "emptied" in report.warnings[0].message
    with open_log(tmp_path) as log:
        log.append("backup", "ok")
    assert is_good(tmp_path)


def test_the_newest_segment_gone_or_emptied(tmp_path: Path) -> None:
    """A seal that nothing follows may be a killed writer's work, and is told: the log is not settled."""
    newest = segment(tmp_path, make_segments(tmp_path))
    os.truncate(newest, 0)
    assert not is_good(tmp_path) and "emptied" in judged(tmp_path).warnings[0].message
    newest.unlink()
    report = judged(tmp_path)
    assert report.is_whole and not report.is_settled and "no segment follows" in report.warnings[0].message


def test_a_lock_without_a_log(tmp_path: Path) -> None:
    """The folder of the segments is made before the lock, so that its absence is a finding."""
    make_log(tmp_path)
    shutil.rmtree(tmp_path / "audit" / "log")
    (finding,) = judged(tmp_path).findings
    assert finding.file == "log" and "missing" in finding.message


def test_every_byte_behind_the_last_record_counts(tmp_path: Path) -> None:
    """Also an LF that ends the file, and one alone."""
    whole = make_log(tmp_path).read_bytes()
    for junk in (b"\n", b"\n\n", b"junk\n", b"junk", b"x" * 3_000_000 + b"\n"):
        segment(tmp_path).write_bytes(whole + junk)
        report = judged(tmp_path)
        assert report.torn_bytes == len(junk) and not report.is_settled and report.is_whole


def test_details_too_deep_at_the_end(tmp_path: Path) -> None:
    """A last line with details nested 400 deep is no record, and does not stop the judgement."""
    path = make_log(tmp_path, 1)
    lines = path.read_bytes().split(b"\n")[:-1]
    deep = lines[1].replace(b'"d":{"bytes":0}', b'"d":{"x":' + b"[" * 400 + b"]" * 400 + b"}")
    path.write_bytes(lines[0] + b"\n" + deep + b"\n")
    assert judged(tmp_path).torn_bytes == len(deep) + 1


def test_a_copy_without_its_lock_can_be_judged(tmp_path: Path) -> None:
    """A log that was copied to another machine verifies there, and nothing is written beside it."""
    make_log(tmp_path / "here")
    (tmp_path / "there").mkdir()
    shutil.copytree(tmp_path / "here" / "audit" / "log", tmp_path / "there" / "audit" / "log")
    assert is_good(tmp_path / "there")
    assert [each.name for each in (tmp_path / "there" / "audit").iterdir()] == ["log"]

"""One operation is one event: a start before the act, one outcome after it, whatever happens."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from opskit.audit.event import operation
from opskit.audit.log import AuditLog
from opskit.audit.reading import entries, latest, records, since
from opskit.audit.record import Fields
from opskit.audit.segments import segments
from opskit.errors import AuditError, Forged
from tests.audit.logs import judged, open_log, segment


def told(folder: Path) -> list[Fields]:
    """All records but the log's own."""
    return [each for each in records(segments(folder / "audit")) if not each["op"].startswith("audit.")]


def test_a_start_before_and_an_outcome_after(tmp_path: Path) -> None:
    """The start is on the medium while the body runs; both carry run, operation and target."""
    with open_log(tmp_path) as log:
        with operation(log, "backup", "data", details={"destinations": ["a", "b"]}) as event:
            (start,) = told(tmp_path)
            event.note(snapshot="abc")
    _, outcome = told(tmp_path)
    assert (start["out"], start["d"]) == ("start", {"destinations": ["a", "b"]})
    assert (outcome["out"], outcome["d"]["snapshot"], outcome["tgt"]) == ("ok", "abc", "data")
    assert start["run"] == outcome["run"] == event.run and type(outcome["d"]["ms"]) is int
    assert not judged(tmp_path).unfinished


@pytest.mark.parametrize(
    ("error", "code"),
    [(Forged("secret pw"), 13), (KeyboardInterrupt(), 130), (SystemExit(4), 4), (ValueError("pw"), 1)],
)
def test_what_ends_the_body_is_recorded_and_goes_on(tmp_path: Path, error: BaseException, code: int) -> None:
    """Class, exit code and message without secrets stand in the one outcome, and the caller gets the same error."""
    with open_log(tmp_path) as log:
        with pytest.raises(type(error)) as caught:
            with operation(log, "verify", redact=lambda text: text.replace("pw", "[secret]")):
                raise error
    assert caught.value is error
    _, outcome = told(tmp_path)
    assert (outcome["out"], outcome["d"]["error"], outcome["d"]["exit"]) == ("fail", type(error).__name__, code)
    assert "pw" not in str(outcome) and ("[secret]" in str(outcome)) == ("pw" in str(error))


def test_a_bad_answer_is_a_failure_too(tmp_path: Path) -> None:
    """The body says what it found, and a clean exit of the process is no failure."""
    with open_log(tmp_path) as log:
        with operation(log, "verify", "a", redact=str.upper) as event:
            event.fail(3, "two objects damaged")
        with operation(log, "backup", "b") as event:
            event.skip("nothing changed")
        with operation(log, "restore", "c", run="given") as event:
            event.deny("not an operator")
        with pytest.raises(SystemExit), operation(log, "demo"):
            raise SystemExit(0)
    outcomes = [(each["out"], each["d"].get("message")) for each in told(tmp_path) if each["out"] != "start"]
    assert outcomes == [
        ("fail", "TWO OBJECTS DAMAGED"),
        ("skip", "nothing changed"),
        ("denied", "not an operator"),
        ("ok", None),
    ]
    assert told(tmp_path)[-3]["run"] == "given"


def test_a_secret_at_the_end_of_a_long_message(tmp_path: Path) -> None:
    """A message is cut after its secrets were removed, so that no half of one stays."""
    with open_log(tmp_path) as log, operation(log, "verify", redact=lambda text: text.replace("hunter2", "*")) as event:
        event.fail(3, "x" * 497 + "hunter2")
    assert told(tmp_path)[-1]["d"]["message"] == "x" * 497 + "*"


class Breakable:
    """Makes the next writes of a log fail, as a full disk would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._write = os.write

    def fail(self) -> None:
        def write(descriptor: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        self._patch.setattr(os, "write", write)

    def mend(self) -> None:
        self._patch.setattr(os, "write", self._write)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Breakable:
    return Breakable(monkeypatch)


class Interrupting:
    """Stands for a call into the kernel during which a signal arrives: the nth time before or after it took effect."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, nth: int, *, after: bool) -> None:
        self._call, self._left, self._after = getattr(os, name), nth, after
        patch.setattr(os, name, self)

    def __call__(self, *arguments: Any) -> Any:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise KeyboardInterrupt
        done = self._call(*arguments)
        if self._left == 0:
            raise KeyboardInterrupt
        return done


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_signal_while_the_start_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: bool
) -> None:
    """A start that was written gets its one outcome, one that was not gets none; the body does not run."""
    with open_log(tmp_path) as log:
        log.append("before", "ok")
        with monkeypatch.context() as patch:
            Interrupting(patch, call, 1, after=after)
            with pytest.raises(KeyboardInterrupt), operation(log, "backup"):
                pytest.fail("the body ran")
        log.append("after", "ok")
    begun = [] if (call, after) == ("write", False) else [("start", None), ("fail", 130)]
    assert [(each["out"], each["d"].get("exit")) for each in told(tmp_path)[1:-1]] == begun
    assert judged(tmp_path).is_settled and not judged(tmp_path).unfinished


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", ["write", "fdatasync"])
@pytest.mark.parametrize("error", [None, Forged("bad")])
def test_a_signal_while_the_outcome_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: bool, error: Forged | None
) -> None:
    """The outcome is written exactly once, and the signal goes on its way."""
    with open_log(tmp_path) as log:
        log.append("before", "ok")
        with monkeypatch.context() as patch:
            Interrupting(patch, call, 2, after=after)
            with pytest.raises(KeyboardInterrupt), operation(log, "backup"):
                if error:
                    raise error
        log.append("after", "ok")
    assert [each["out"] for each in told(tmp_path)[1:-1]] == ["start", "fail" if error else "ok"]
    assert judged(tmp_path).is_settled


def test_a_signal_while_others_write_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outcome that was written before the signal is not repeated, though another process appended meanwhile."""
    with open_log(tmp_path) as log, open_log(tmp_path) as other:
        log.append("before", "ok")
        fdatasync, left = os.fdatasync, [2]

        def interrupted(descriptor: int) -> None:
            left[0] -= 1
            if left[0] == 0:
                other.append("other", "ok")
                raise KeyboardInterrupt
            fdatasync(descriptor)

        monkeypatch.setattr(os, "fdatasync", interrupted)
        with pytest.raises(KeyboardInterrupt), operation(log, "backup"):
            pass
    assert [(each["op"], each["out"]) for each in told(tmp_path)[1:]] == [
        ("backup", "start"), ("backup", "ok"), ("other", "ok"),
    ]  # fmt: skip
    assert judged(tmp_path).is_settled


def test_no_secret_in_any_text(tmp_path: Path) -> None:
    """Whatever is told of start and outcome, however nested, passes `redact`, the target and keys too."""
    details = {"a": ["pw", {"pw": "xpwx", "b": (b"pw", {"pw"}, Path("/pw"))}], "pw": 1, "c": True, "d": None, "e": 7}
    with open_log(tmp_path) as log:
        with operation(log, "sync", "to pw", details=details, redact=lambda text: text.replace("pw", "*")) as event:
            event.note(**details)
    start, outcome = told(tmp_path)
    assert "pw" not in segment(tmp_path).read_text() and start["tgt"] == outcome["tgt"] == "to *"
    assert start["d"] == {"_": 1, "a": ["*", {"_": "x*x", "b": ["*", ["*"], "/*"]}], "c": True, "d": None, "e": 7}
    assert {**start["d"], "ms": outcome["d"]["ms"]} == outcome["d"]


def test_refuse_stops_before_the_act(tmp_path: Path, disk: Breakable) -> None:
    """Where the start cannot be recorded, the body does not run."""
    with open_log(tmp_path) as log:
        disk.fail()
        with pytest.raises(AuditError, match="no space"), operation(log, "backup"):
            pytest.fail("the body ran")


def test_refuse_tells_after_the_act(tmp_path: Path, disk: Breakable) -> None:
    """An act whose outcome cannot be recorded ends in AuditError, and stays unfinished in the log."""
    with open_log(tmp_path) as log:
        with pytest.raises(AuditError), operation(log, "backup"):
            disk.fail()
        disk.mend()
    assert judged(tmp_path).unfinished_count == 1


def test_an_error_of_the_body_is_not_replaced(tmp_path: Path, disk: Breakable) -> None:
    """Where both fail, the caller gets the body's error and `warn` the log's."""
    warnings: list[AuditError] = []
    with open_log(tmp_path) as log:
        with pytest.raises(Forged), operation(log, "verify", warn=warnings.append):
            disk.fail()
            raise Forged("bad")
        disk.mend()
    assert len(warnings) == 1


@pytest.mark.parametrize("call", ["write", "fdatasync", "pread", "lstat", "lseek"])
@pytest.mark.parametrize("trouble", [OSError(errno.EIO, "Input/output error"), MemoryError(), RuntimeError("odd")])
@pytest.mark.parametrize("moment", ["body", "start", "outcome"])
def test_an_interruption_is_not_replaced_by_trouble_with_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, trouble: Exception, moment: str
) -> None:
    """Whatever call fails from then on, and however: the caller gets the KeyboardInterrupt, and `warn` the rest."""

    def fail(*_: object) -> None:
        raise trouble

    warnings: list[AuditError] = []
    with open_log(tmp_path) as log:
        log.append("before", "ok")
        fdatasync, left = os.fdatasync, [{"body": 0, "start": 1, "outcome": 2}[moment]]

        def interrupted(descriptor: int) -> None:
            left[0] -= 1
            if left[0] == 0:
                monkeypatch.setattr(os, call, fail)
                raise KeyboardInterrupt
            fdatasync(descriptor)

        monkeypatch.setattr(os, "fdatasync", interrupted)
        with pytest.raises(KeyboardInterrupt), operation(log, "backup", warn=warnings.append):
            if moment == "body":
                monkeypatch.setattr(os, call, fail)
                raise KeyboardInterrupt
        monkeypatch.undo()
    assert len(warnings) <= 1 and (moment != "body" or call == "pread" or len(warnings) == 1)


def test_warn_goes_on(tmp_path: Path, disk: Breakable) -> None:
    """With on_failure="warn" the act runs, and each record that is missing is told."""
    warnings: list[AuditError] = []
    ran: list[Any] = []
    with open_log(tmp_path) as log:
        disk.fail()
        with operation(log, "backup", on_failure="warn", warn=warnings.append) as event:
            ran.append(event.run)
        disk.mend()
    assert len(ran) == 1 and len(warnings) == 2


def write_story(log: AuditLog) -> None:
    """A finished operation, one that was killed, and one more."""
    with operation(log, "backup", "one"):
        pass
    log.append("backup", "start", target="killed", run="k")
    with operation(log, "backup", "two"):
        pass


def test_reading_in_order_and_from_the_end_agree(tmp_path: Path) -> None:
    """Both know which starts are unfinished; the latest are counted without finished starts, across segments."""
    with open_log(tmp_path, segment_size=700) as log:
        write_story(log)
        write_story(log)
    with segment(tmp_path, segments(tmp_path / "audit")[-1].number).open("ab") as file:
        file.write(b"torn")
    everything = [each for each in entries(tmp_path / "audit") if each.is_unfinished or each.record["out"] != "start"]
    assert [each.record["tgt"] for each in everything if each.is_unfinished] == ["killed", "killed"]
    for count in (0, 1, 3, 1000):
        found, _ = latest(tmp_path / "audit", count)
        assert found == everything[len(everything) - count if count < len(everything) else 0 :]


def test_following(tmp_path: Path) -> None:
    """From the place behind the latest on, every record comes once and in order, through torn ends and new segments."""
    with open_log(tmp_path, segment_size=700) as log:
        log.append("backup", "ok")
        _, place = latest(tmp_path / "audit", 5)
        assert since(tmp_path / "audit", place) == ([], place)
        seen = []
        for number in range(6):
            log.append("backup", "ok", target=str(number))
            if number == 2:
                with segment(tmp_path, segments(tmp_path / "audit")[-1].number).open("ab") as file:
                    file.write(b'{"actor"')
            found, place = since(tmp_path / "audit", place)
            seen += [each["tgt"] for each in found if each["op"] == "backup"]
    assert seen == list("012345")

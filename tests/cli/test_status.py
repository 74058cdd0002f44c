"""`opskit status`: the matrix, its JSON and its exit code, on real copies."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from opskit.gpg import Keyring
from opskit.repository import names
from tests.cli.hosts import Machine, objects

CONTRACT = {"ok", "copies", "media", "offsite", "newest", "age_seconds", "problems", "destinations"}
COPY_CONTRACT = {"state", "snapshots", "newest", "last_verified", "last_drilled"}


def lenient(machine: Machine) -> Machine:
    """The same host with a policy that one device can meet."""
    text = machine.config.read_text()
    for key, number in (("copies", 1), ("media", 1), ("offsite", 0)):
        text = re.sub(rf"^  {key}: \d", f"  {key}: {number}", text, flags=re.MULTILINE)
    machine.config.write_text(text)
    return machine


def source_of(machine: Machine) -> Any:
    """What --json says of the one source."""
    return machine.run("status", "--json").json["sources"]["data"]


def test_a_kept_policy_is_green(used: Machine) -> None:
    """Where the policy is met the verdict says so, the exit code is 0, and nothing is to be typed."""
    answer = lenient(used).run("status")
    assert answer.code == 0 and answer.err == ""
    assert answer.out.startswith("data  3-2-1 met: 1 of 1 copy, 1 of 1 media, 0 of 0 offsite\n")
    assert "next:" not in answer.out and "never" in answer.out


def test_one_device_is_one_copy(used: Machine) -> None:
    """Facts beat labels: two destinations beside the original count once, whatever media they are said to be."""
    used.edit_config(f"b: {{path: {used.b}}}", f"b: {{path: {used.b}, medium: tape, offsite: true}}")
    answer = used.run("status")
    assert answer.code == 3 and "3-2-1 NOT MET: 1 of 3 copies, 1 of 2 media, 0 of 1 offsite" in answer.out
    assert "original, a and b are in one place" in answer.out.replace("\n     ", " ")
    assert re.search(r"^b +tape, offsite +device \d+:\d+$", answer.out, re.MULTILINE)


def test_the_contracted_json(used: Machine) -> None:
    """The document has every key that scripts rely on, with numbers, UTC times and null where nothing is known."""
    answer = lenient(used).run("status", "--json")
    found = answer.json["sources"]["data"]
    assert answer.code == 0 and answer.json["ok"] is True and answer.json["simulated"] is False
    assert found.keys() >= CONTRACT and found["ok"] is True and found["problems"] == []
    assert (found["copies"], found["media"], found["offsite"]) == (1, 1, 0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["newest"]) and 0 <= found["age_seconds"] < 3600
    for name in ("a", "b"):
        copy = found["destinations"][name]
        assert copy.keys() >= COPY_CONTRACT
        assert (copy["state"], copy["snapshots"], copy["newest"]) == ("current", 2, found["newest"])
        assert copy["last_verified"] is None and copy["last_drilled"] is None


def test_verify_is_remembered(used: Machine) -> None:
    """After a verify status knows when each copy was read back, and what would be recovered for certain."""
    assert source_of(used)["rpo_seconds"] is None
    assert used.run("verify", "--destination", "a").code == 0
    found = source_of(used)
    assert found["destinations"]["a"]["last_verified"] is not None
    assert found["destinations"]["b"]["last_verified"] is None
    assert found["newest_verified"] == found["newest"] and found["rpo_seconds"] >= 0


def test_damage_that_verify_found_stays_known(used: Machine) -> None:
    """A copy with rot is damaged in status from verify on, until a verify finds it whole."""
    lenient(used)
    path = used.b / min(objects(used.b, "packs"))
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert used.run("status").code == 0  # a listing cannot know
    assert used.run("verify").code == 3
    answer = used.run("status")
    assert answer.code == 3 and "b had 1 damaged when it was last read back" in answer.out
    assert "next: opskit heal --destination b, then opskit verify --destination b" in answer.out
    path.write_bytes(whole)
    assert used.run("verify").code == 0 and used.run("status").code == 0


def test_a_verify_without_config_is_nobodys_memory(used: Machine) -> None:
    """With --repository alone nothing is remembered: that is no act of this host."""
    assert used.run("verify", "--repository", used.a).code == 0
    assert source_of(used)["destinations"]["a"]["last_verified"] is None


def test_an_absent_destination(used: Machine) -> None:
    """A disk that is away is absent, with its last known snapshot and the command for its return."""
    newest = source_of(lenient(used))["newest"]
    used.edit_config(f"b: {{path: {used.b}}}", f"b: {{path: {used.b}, medium: usb, must_be_mounted: true}}")
    used.b.rename(used.folder / "elsewhere")
    answer, found = used.run("status"), source_of(used)
    assert answer.code == 3 and "next: when it is back, opskit sync b" in answer.out
    assert (found["destinations"]["b"]["state"], found["destinations"]["b"]["newest"]) == ("absent", newest)
    assert found["offline"] == ["b"] and found["destinations"]["a"]["state"] == "current"
    used.b.mkdir()
    bare = source_of(used)["destinations"]["b"]
    assert (bare["state"], bare["observed"]) == ("absent", None), "the bare mount point is not the medium"


def test_what_backup_stored_is_remembered(machine: Machine) -> None:
    """A disk that goes away right after its first backup is absent with the snapshot that it took."""
    assert machine.run("backup").code == 0
    machine.b.rename(machine.folder / "elsewhere")
    found = source_of(machine)
    assert found["destinations"]["b"]["state"] == "absent"
    assert found["destinations"]["b"]["newest"] == found["newest"] is not None


def test_no_destination_at_all(used: Machine) -> None:
    """With every copy away there is still an answer, and it is red."""
    for copy in (used.a, used.b):
        shutil.rmtree(copy)
    answer = used.run("status", "--json")
    assert answer.code == 3 and source_of(used)["newest"] is None
    assert {each["state"] for each in source_of(used)["destinations"].values()} == {"absent"}


def test_behind_names_sync(used: Machine) -> None:
    """A copy that lacks the newest snapshot is behind; so says the matrix, and how to mend it."""
    (used.source / "more").write_text("more")
    used.b.rename(used.folder / "elsewhere")
    assert used.run("backup").code == 3
    (used.folder / "elsewhere").rename(used.b)
    answer = lenient(used).run("status")
    assert answer.code == 3 and re.search(r"^  !  b +behind 1 ", answer.out, re.MULTILINE)
    assert "next: opskit sync b" in answer.out
    assert [len(each) for each in source_of(used)["destinations"]["b"]["lacks"]] == [64]


def test_a_rollback_is_an_alarm(used: Machine) -> None:
    """A copy that lost what it acknowledged ends with 13, as in verify."""
    newest = source_of(used)["newest_id"]
    next((used.b / "snapshots").glob(f"*{newest}*")).unlink()
    answer = lenient(used).run("status")
    assert answer.code == 13 and "rolled back" in answer.out and "opskit verify --destination b" in answer.out


def test_a_manifest_by_a_stranger_is_an_alarm(used: Machine, tmp_short: Path) -> None:
    """What an unknown key signed is not counted, told loudly, a problem of that copy, and ends with 13."""
    with Keyring(tmp_short / "g") as stranger:
        data = stranger.sign(b"{}", stranger.generate("stranger"))
    (used.a / "snapshots" / f"20261121T020000Z-data-{names.sha256(data)}.gpg").write_bytes(data)
    answer = lenient(used).run("status")
    assert answer.code == 13 and "a holds 1 manifest that cannot be believed" in answer.out
    assert "IS NOT TO BE TRUSTED" in answer.err


def test_before_the_first_backup(machine: Machine) -> None:
    """A host without any snapshot is told to make one: exit 3."""
    answer = lenient(machine).run("status")
    assert answer.code == 3 and "next: opskit backup data" in answer.out


def test_a_lost_original(used: Machine) -> None:
    """When the source is gone the original is no copy, and restore is what to type."""
    lenient(used)
    shutil.rmtree(used.source)
    answer = used.run("status")
    assert answer.code == 3 and re.search(r"^  !  original +GONE$", answer.out, re.MULTILINE)
    assert "opskit restore data@latest" in answer.out and source_of(used)["original"]["state"] == "gone"


def test_a_simulation_says_so(used: Machine) -> None:
    """In a simulated config places are pretended, so the rules can be met; matrix and JSON say that loudly."""
    used.edit_config("sources:", "simulated: true\nsources:")
    used.edit_config(f"b: {{path: {used.b}}}", f"b: {{path: {used.b}, medium: usb, offsite: true}}")
    answer = used.run("status")
    assert answer.code == 0 and answer.out.startswith("SIMULATED: ")
    assert "3-2-1 met: 3 of 3 copies, 2 of 2 media, 1 of 1 offsite (simulated)" in answer.out
    assert used.run("status", "--json").json["simulated"] is True


def test_sources_can_be_named(used: Machine) -> None:
    """Only what is asked for is shown, and an unknown name ends with 2 and those there are."""
    assert list(used.run("status", "data", "--json").json["sources"]) == ["data"]
    answer = used.run("status", "dta")
    assert answer.code == 2 and "the config has data" in answer.err


def test_a_damaged_memory_is_told(used: Machine) -> None:
    """A broken memory file costs the memory: status and verify say so, and go on."""
    assert used.run("verify").code == 0
    (path,) = (used.state / "verified").glob("*.json")
    path.write_text("{")
    answer = used.run("verify")
    assert answer.code == 0 and "was damaged" in answer.err
    path.write_text("[]")
    answer = lenient(used).run("status")
    assert answer.code == 0 and "was damaged" in answer.err and "never" in answer.out


def test_state_that_cannot_be_written_is_only_slower(used: Machine) -> None:
    """A state folder without room for cache and memory costs those, not the answer."""
    for name in ("cache", "verified"):
        shutil.rmtree(used.state / name, ignore_errors=True)
        (used.state / name).write_text("in the way")
    answer = lenient(used).run("status")
    assert answer.code == 0 and answer.err.count("warning") == 2


def test_the_matrix_fits_a_terminal(used: Machine) -> None:
    """With five destinations, some of the longest names, no line but a command is wider than 80 columns."""
    more = "".join(f"  {name}: {{path: {used.folder / name}}}\n" for name in ("x" * 32, "third", "y-" * 16))
    used.edit_config("destinations:\n", "destinations:\n" + more)
    answer = used.run("status")
    wide = [line for line in answer.out.splitlines() if len(line) > 80 and not line.startswith("     next: ")]
    assert answer.code == 3 and wide == []
    assert all(f"  !  {name}" in answer.out.splitlines() for name in ("x" * 32, "y-" * 16))


def test_names_from_outside_steer_no_terminal(used: Machine) -> None:
    """A path in an error message is escaped in the matrix and in JSON."""
    used.edit_config(f"b: {{path: {used.b}}}", 'b: {path: "/nowhere/\\x1b[31mred"}')
    answer = used.run("status")
    assert "\x1b" not in answer.out + answer.err and "\\x1b[31mred" in answer.out.replace("\n     ", "")
    assert json.loads(used.run("status", "--json").data)["sources"]["data"]["destinations"]["b"]["error"]


def test_a_snapshot_that_is_gone_everywhere_is_told(used: Machine) -> None:
    """A manifest removed from the middle of every copy makes no copy damaged, and is a problem all the same."""
    lenient(used)
    for number in range(2):
        (used.source / "changing").write_text(f"{number}")
        assert used.run("backup").code == 0
    middle = sorted(objects(used.a, "snapshots"), key=lambda name: (used.a / name).stat().st_mtime_ns)[-2]
    (used.a / middle).unlink()
    assert used.run("status").code == 3 and "lacks 1 snapshot" in used.run("status").out
    (used.b / middle).unlink()
    assert used.run("verify").code == 3
    found = source_of(used)
    assert {each["state"] for each in found["destinations"].values()} == {"current"} and found["met"]
    (problem,) = found["problems"]
    assert "removed, and no mark forgets it" in problem and not found["ok"]

"""`opskit diff`: what differs, in words and as one document, with names that steer no terminal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.hosts import Machine
from tests.cli.labs import HostLab, lab, parsed

__all__ = ["lab"]

Capture = pytest.CaptureFixture[str]


def ids(machine: Machine) -> list[str]:
    """The snapshots, oldest first."""
    return [each["id"] for each in machine.run("snapshots", "--json").json]


def changes(machine: Machine, *arguments: object) -> Any:
    answer = machine.run("diff", *arguments, "--key", machine.key, "--json")
    assert answer.code == 0, answer.err
    return answer.json


def test_an_added_file_is_told(backed_up: Machine) -> None:
    """The second snapshot has one file more and a folder with another time; differences are no failure."""
    answer = backed_up.run("diff", *ids(backed_up), "--key", backed_up.key)
    *lines, summary = answer.out.splitlines()
    assert answer.code == 0
    assert [(line.split()[0], Path(line.split()[1]).name) for line in lines] == [
        ("metadata", "data"),
        ("added", "later"),
    ]
    assert summary.startswith("1 added (7 B), 0 removed") and summary.endswith("1 in metadata only")


def test_a_snapshot_does_not_differ_from_itself(backed_up: Machine) -> None:
    """The same snapshot twice: nothing, in words and in JSON, and exit 0."""
    answer = backed_up.run("diff", "latest", "data@latest", "--key", backed_up.key)
    assert (answer.code, answer.out) == (0, "no differences\n")
    assert changes(backed_up, "latest", "latest")["changes"] == []


def test_json_tells_before_and_after(used: Machine) -> None:
    """The document names both snapshots, each change with its entries, and totals that fit."""
    note = used.source / "sub" / "note.txt"
    assert used.run("backup").code == 0  # the source has moved with the host
    first = ids(used)[-1]
    note.write_text("another note\n")
    note.chmod(0o600)
    (used.source / "large.bin").chmod(0o600)
    (used.source / "link").unlink()
    assert used.run("backup").code == 0
    found = changes(used, first, "latest")
    assert found["snapshots"] == [first, ids(used)[-1]] and found["path"] == "/"
    by_name = {Path(each["path"]).name: each for each in found["changes"]}
    assert by_name["note.txt"]["change"] == "changed"
    assert {"content", "mode"} <= set(by_name["note.txt"]["fields"])
    assert (by_name["note.txt"]["before"]["size"], by_name["note.txt"]["after"]["size"]) == (7, 13)
    assert (by_name["large.bin"]["change"], by_name["large.bin"]["fields"]) == ("metadata", ["mode"])
    assert by_name["link"]["change"] == "removed" and by_name["link"]["after"] is None
    totals = {kind: each["entries"] for kind, each in found["summary"].items()}
    assert totals == {kind: sum(each["change"] == kind for each in found["changes"]) for kind in totals}
    words = used.run("diff", first, "latest", "--key", used.key).out
    assert "7 B → 13 B, mode 0644 → 0600" in words


def test_a_path_limits_it(backed_up: Machine) -> None:
    """Only what is at and below PATH is told; a path that neither has ends with 10."""
    found = changes(backed_up, *ids(backed_up), backed_up.source / "later")
    assert [each["change"] for each in found["changes"]] == ["added"]
    assert changes(backed_up, *ids(backed_up), f"{backed_up.source}/sub/")["changes"] == []
    answer = backed_up.run("diff", *ids(backed_up), "/nowhere", "--key", backed_up.key)
    assert answer.code == 10 and "neither snapshot has /nowhere" in answer.err


def test_odd_names_are_harmless(lab: HostLab, capsys: Capture) -> None:
    """Names with escapes and bytes that are not UTF-8 are shown escaped, and kept whole in JSON."""
    assert lab.run("diff", "db@latest", "data@latest", "--key", lab.key) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "esc-\\x1b[31mred" in out and "latin-\\xe9" in out and "two\\nlines" in out
    assert lab.run("diff", "--json", "db@latest", "data@latest", "--key", lab.key) == 0
    named = [os.fsencode(each["path"]) for each in parsed(capsys)["changes"]]
    assert b"/" + lab.data + b"/latin-\xe9" in named


def test_the_key_is_needed(backed_up: Machine) -> None:
    """Without a private key no name is told: exit 12, and an unknown snapshot ends with 10."""
    answer = backed_up.run("diff", *ids(backed_up))
    assert answer.code == 12 and answer.out == "" and "--key FILE" in answer.err
    assert backed_up.run("diff", "latest", "00000000", "--key", backed_up.key).code == 10

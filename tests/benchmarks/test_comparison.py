"""The comparison is fair, its arithmetic right, and it says what a reader has to know."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import corpora
from benchmarks.__main__ import main
from benchmarks.measure import BenchmarkFailed
from benchmarks.rounds import Figures, Plan, check_space, rotated
from benchmarks.table import quotients
from benchmarks.tools import Opskit, Program, Restic, Tool, find_peer, make

TINY = ["--corpora", "tokens", "--scale", "0.001", "--runs", "1"]


def program(path: Path, script: str) -> str:
    """An executable that stands for somebody else's tool."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in corpora.files_below(folder)}


def test_opskit_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real run prints a row for each step and the machine, names the absent peers and leaves nothing behind."""
    absent = str(tmp_path / "absent")
    assert main([*TINY, "--restic", absent, "--borg", absent, "--work", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for step in ("first", "unchanged", "edited", "restore"):
        assert f"| tokens | {step} | opskit |" in told
    assert "restic is left out" in told
    assert "borg is left out" in told
    assert "scale 0.001" in told
    assert f"Python {sys.version.split()[0]}" in told
    assert not list(tmp_path.iterdir())


def test_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The single file is restored to where its path leads below the target, and compared."""
    options = ["--peers", "", "--scale", "0.001", "--runs", "1", "--work", str(tmp_path)]
    assert main(["one-file", *options]) == 0
    assert "| gigabyte | one-file | opskit |" in capsys.readouterr().out


def test_startup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The start is shown beside a bare interpreter's."""
    assert main(["startup", "--runs", "1", "--work", str(tmp_path)]) == 0
    assert "| difference |" in capsys.readouterr().out


def test_wrong_restore_ends_the_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tool that is quick because it restores nothing gets no figures."""
    quick = program(tmp_path / "restic", "echo restic 0.19.1")
    assert main([*TINY, "--peers", "restic", "--restic", quick, "--work", str(tmp_path / "work")]) == 1
    captured = capsys.readouterr()
    assert "differs" in captured.err
    assert not captured.out


def test_tools_are_driven_with_their_own_folders(tmp_path: Path) -> None:
    """Two tools on one corpus share no repository."""
    quick = program(tmp_path / "quick", "exit 0")
    made = [make(Program(name, quick, "1.0"), tmp_path / name, tmp_path) for name in ("opskit", "restic", "borg")]
    assert len({tool.repository for tool in made}) == 3
    assert isinstance(made[0], Opskit)
    assert isinstance(made[1], Restic)


@pytest.mark.parametrize(
    ("name", "told", "takes_part", "note"),
    [
        ("restic", "restic 0.19.1 compiled with go1.26 on linux/amd64", True, None),
        ("restic", "restic 0.14.0 compiled with go1.19 on linux/amd64", True, "older than 0.19"),
        ("borg", "borg 1.4.1", True, None),
        ("borg", "borg 1.2.4", True, "older than 1.4"),
        ("borg", "borg 2.0.0b14", False, "other commands"),
    ],
)
def test_versions_are_judged(tmp_path: Path, name: str, told: str, takes_part: bool, note: str | None) -> None:
    """A peer older than the figures are stated against takes part with a note; borg 2 does not."""
    found, said = find_peer(name, program(tmp_path / name, f"echo '{told}'"))
    assert (found is not None) == takes_part
    assert (said is None) if note is None else (said is not None and note in said)


def test_ratio_is_the_median_of_the_rounds() -> None:
    """A ratio compares within rounds: one slow round of the machine, which hit both, does not move it."""
    own = [Figures(wall, 1, 1, 1) for wall in (1.0, 10.0, 1.1)]
    peer = [Figures(wall, 2, 4, 1) for wall in (2.0, 20.0, 1.9)]
    assert quotients(own, peer) == ["0.50", "0.50", "0.25", "1.00"]


def test_every_tool_is_first_equally_often(tmp_path: Path) -> None:
    """Over as many turns as there are tools, each takes each place once."""
    quick = program(tmp_path / "quick", "exit 0")
    tools: list[Tool] = [Restic(quick, tmp_path, tmp_path) for _ in range(3)]
    orders = [rotated(tools, turn) for turn in range(3)]
    for place in range(3):
        assert {id(order[place]) for order in orders} == {id(tool) for tool in tools}


def test_rounds_get_the_same_bytes(tmp_path: Path) -> None:
    """A corpus built twice is the same, and each round's edit changes some of it in another way."""
    first, second = tmp_path / "1", tmp_path / "2"
    extents = [corpora.build("tokens", place, 0.005) for place in (first, second)]
    assert extents[0] == extents[1]
    assert extents[0].files == 100
    before = contents(first)
    assert before == contents(second)
    corpora.edit("tokens", first, 0)
    corpora.edit("tokens", second, 1)
    assert len(contents(first).items() - before.items()) == 1
    assert contents(first) != contents(second)


def test_big_keeps_its_size_when_edited(tmp_path: Path) -> None:
    """The edit of the big file overwrites pages in its middle: a database does not grow by an update."""
    place = tmp_path / "big"
    place.mkdir()
    image = place / "dump.img"
    image.write_bytes(bytes(4 << 20))
    corpora.edit("big", place, 0)
    assert image.stat().st_size == 4 << 20
    assert image.read_bytes().strip(b"\0")


def test_too_small_a_disk_is_refused(tmp_path: Path) -> None:
    """A plan that would fill the disk ends before the first backup, with the sizes."""
    plan = Plan([Program("opskit", "opskit", "0")], ["big"], ["first"], 3, 1.0, tmp_path)
    with pytest.raises(BenchmarkFailed, match="GB free"):
        check_space(plan, corpora.Extent(1, 1 << 60))


@pytest.mark.parametrize(
    "wrong", [["--runs", "0"], ["--scale", "0"], ["--peers", "tar"], ["million", "--corpora", "big"]]
)
def test_wrong_options_are_usage_errors(wrong: list[str], tmp_path: Path) -> None:
    """Options that cannot be meant end with exit 2 before anything is built."""
    with pytest.raises(SystemExit, match="2"):
        main([*wrong, "--work", str(tmp_path)])

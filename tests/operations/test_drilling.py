"""The parts of a drill: what it chooses, what it takes down and finds again, where it restores, what it tells."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import Damaged, SourceError, StoreFull, StoreRefused, UsageError
from opskit.gpg import verify
from opskit.operations.drilling import report as reports
from opskit.operations.drilling import scratch as scratches
from opskit.operations.drilling.checks import Commands, Runner, judge_all, judge_databases, judge_each
from opskit.operations.drilling.choose import Pair, choose_pair, choose_snapshot, pairs
from opskit.operations.drilling.comparing import Compared, compare
from opskit.operations.drilling.dumps import Judged, Questions, judge_dumps
from opskit.operations.drilling.expected import Expected
from opskit.operations.drilling.records import Details, outstanding
from opskit.operations.drilling.report import Report
from opskit.operations.drilling.sampling import sample_of, wish_of
from opskit.operations.drilling.scratch import Scratch, require_apart, scratch_in
from opskit.operations.restore import RestoreOptions, restore
from opskit.repository import evidence as forms
from opskit.repository import names
from opskit.repository.copy import open_copy
from opskit.repository.evidence import Check, Drill, Drilled, Evidence
from opskit.repository.manifest import Manifest, Snapshot
from opskit.repository.tree import Node
from opskit.sources.files import FileSource
from opskit.sources.loading import Loader
from tests.fakes import Crash, FaultyStore, When
from tests.faults.crafting import Crafted, write
from tests.operations.judging import found, is_root, run
from tests.repositories import Lab, make_source, memory_copy, noise, restored_below

NOW = datetime(2026, 11, 21, 7, tzinfo=UTC)
DRILL = Drill(
    "tokens", "web1", "usb", "c" * 32, "5" * 64, NOW - timedelta(days=9), "seeded", 7, 14, "opskit", "", True,
    10, 1000, 10, 1000, 192_400, 5_000, 3600, 14_400, None,
    [Check("hashes", 12, 12), Check("counts", 1, 1)], {}, "opskit",
)  # fmt: skip


# What is restored is found again, and every change of it is seen.


@pytest.fixture
def restored(lab: Lab, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Expected, Path, Path]:
    """A folder with one of everything, restored while it was taken down: what is expected, the target, the copy."""
    make_source(source)
    monkeypatch.setattr("opskit.operations.drilling.expected._SHARE_BYTES", 1_500_000)
    (source / "huge").write_bytes(noise(9, 5_000_000))
    os.setxattr(source / "empty", "user.note", b"kept")
    result = run(lab, FileSource([source]))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    expected = Expected(scratch, 2)
    target = scratch / "restored"
    options = RestoreOptions(wanted=expected.takes(lambda node: True), workers=2)
    done = restore(lab.reader(found(lab, result)), target, options)
    assert not done.problems
    manifest = found(lab, result).manifest
    counts = expected.counts
    assert (counts.entries, counts.files, counts.bytes) == (manifest.entries, manifest.files, manifest.bytes)
    return expected, target, restored_below(target, source)


def test_a_true_restore_is_found_true(restored: tuple[Expected, Path, Path], tmp_path: Path) -> None:
    """Of everything that was restored nothing differs, and every byte that is no hole was hashed."""
    expected, target, _ = restored
    compared = compare(expected, target, tmp_path)
    assert (compared.contents, compared.metadata) == ([], [])
    assert compared.entries == expected.counts.entries and compared.hashed > 8_000_000
    expected.close()


def test_folders_deeper_than_are_held_open(tmp_path: Path) -> None:
    """A walk that goes far down, and up and down again, is compared as a flat one; one wrong file below is found."""
    target = tmp_path / "target"
    folders = ["/".join(["a"] * depth) for depth in (1, 63, 64, 65, 90)]
    (target / folders[-1]).mkdir(parents=True)
    paths = [f"{folder}/{name}" for folder in folders for name in ("b/one", "c")]
    expected = Expected(tmp_path, 1)
    for path in sorted(paths, key=lambda each: each.split("/")):
        (target / path).parent.mkdir(exist_ok=True)
        (target / path).write_text(path)
        status = (target / path).stat()
        node = Node(os.fsencode(path), "file", stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        chunk = sha256(path.encode()).digest(), len(path)
        expected.take(replace(node, mtime=status.st_mtime_ns, size=len(path), chunks=[chunk]))
    (target / folders[-1] / "c").unlink()
    (target / folders[3] / "b").rename(target / folders[3] / "d")
    compared = compare(expected, target, tmp_path)
    assert [path.decode() for path, _ in compared.contents] == sorted([f"{folders[3]}/b/one", f"{folders[-1]}/c"])
    assert compared.entries == len(paths)
    expected.close()


def test_content_that_is_hashed_afterwards_alone(lab: Lab, tmp_path: Path) -> None:
    """A chunk that is not what its id says, in a pack that is, passes such a restore, and is found after it."""
    content, other = b"what was backed up", b"what somebody made"
    chunk_id = sha256(content).digest()
    line = {"type": "file", "path": "new", "mode": 0o600, "uid": os.getuid(), "gid": os.getgid(), "mtime": 10**18}
    tree = json.dumps(line | {"size": len(content), "chunks": [[chunk_id.hex(), len(content)]]}).encode() + b"\n"
    snapshot = write(lab, Crafted(tree, {chunk_id: other}))
    expected, target = Expected(tmp_path, 2), tmp_path / "target"
    options = RestoreOptions(wanted=expected.takes(lambda node: True), compared_after=True)
    assert not restore(lab.reader(snapshot), target, options).problems
    compared = compare(expected, target, tmp_path)
    assert [path for path, _ in compared.contents] == [b"new"]
    expected.close()


def _flip(path: Path, position: int) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a bit of a small file": lambda root: _flip(root / "docs" / "note-05.txt", 17),
    "a bit at the end of a large one": lambda root: _flip(root / "huge", 4_999_999),
    "a bit in the middle of one": lambda root: _flip(root / "huge", 2_500_000),
    "a bit after a hole": lambda root: _flip(root / "sparse", 700_002),
    "a byte in a hole": lambda root: _flip(root / "sparse", 600_000),
    "a file that is gone": lambda root: (root / "docs" / "note-01.txt").unlink(),
    "a file that grew": lambda root: os.truncate(root / "docs" / "note-02.txt", 9999),
    "a file that is a folder": lambda root: ((root / "empty").unlink(), (root / "empty").mkdir()),
    "a file behind a link": lambda root: (
        (root / "same.bin").rename(root / "other"), (root / "same.bin").symlink_to("other")
    ),
    "a folder behind a link": lambda root: (
        (root / "docs").rename(root / "elsewhere"), (root / "docs").symlink_to("elsewhere")
    ),
    "a link that leads elsewhere": lambda root: _relink(root / "link", "docs/note-02.txt"),
    "a hard link that is a copy": lambda root: (
        shutil.copy2(root / "same.bin", root / "x"), (root / "x").replace(root / "docs" / "hard")
    ),
    "a folder that is gone": lambda root: (root / "nothing").rmdir(),
    "a pipe that is gone": lambda root: (root / "pipe").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_no_change_of_contents_escapes(restored: tuple[Expected, Path, Path], tmp_path: Path, what: str) -> None:
    """A restored folder that differs in one thing is not taken for right."""
    expected, target, root = restored
    CHANGES[what](root)
    assert compare(expected, target, tmp_path).contents
    expected.close()


METADATA: dict[str, Callable[[Path], object]] = {
    "mode": lambda root: (root / "empty").chmod(0o755),
    "mode of a folder": lambda root: (root / "nothing").chmod(0o711),
    "time": lambda root: os.utime(root / "empty", ns=(1, 1)),
    "time of a link": lambda root: os.utime(root / "link", ns=(1, 1), follow_symlinks=False),
    "attribute": lambda root: os.setxattr(root / "empty", "user.note", b"changed"),
    "attribute that is gone": lambda root: os.removexattr(root / "empty", "user.note"),
    "owner": lambda root: os.chown(root / "empty", 1, 1),
}


@pytest.mark.parametrize("what", METADATA)
def test_no_change_of_metadata_escapes(restored: tuple[Expected, Path, Path], tmp_path: Path, what: str) -> None:
    """Another mode, time, owner or attribute is seen, and is not called another content."""
    if what == "owner" and not is_root():
        pytest.skip("only root gives files away")
    expected, target, root = restored
    METADATA[what](root)
    compared = compare(expected, target, tmp_path)
    assert len(compared.metadata) == 1 and not compared.contents
    expected.close()


# The choice.


def snapshots(count: int, source: str = "tokens", host: str = "web1", spacing: int = 1) -> list[Snapshot]:
    """Snapshots of one chain, one each `spacing` days up to now."""
    made = []
    for number in range(1, count + 1):
        time = NOW - timedelta(days=spacing * (count - number))
        manifest = Manifest("r", host, source, number, None, time, time, (), "0" * 64, 0, (), {}, 1, 1, 1, 0, True, "x")
        digest = sha256(f"{host}{source}{number}".encode()).hexdigest()
        made.append(Snapshot(names.snapshot(time, source, digest), digest, "F" * 40, manifest))
    return made


def drilled(pair: Pair, when: datetime, *, passed: bool = True) -> Drilled:
    drill = replace(
        DRILL, source=pair.source, origin=pair.origin, destination=pair.destination, copy=pair.copy, passed=passed
    )
    return Drilled(f"evidence/{when:%s}", f"{when:%s}", "drills", when, drill)


@given(st.integers(0, 2**63), st.integers(1, 40), st.integers(1, 200), st.randoms())
def test_a_choice_can_be_repeated(seed: int, count: int, window: int, chance: object) -> None:
    """The same seed gives the same snapshot, in whatever order they come, always within the window if one is there."""
    chain = snapshots(count, spacing=7)
    copies = {"usb": "u" * 32}
    (pair,) = pairs(chain, {each.name: ["usb"] for each in chain}, copies, (), NOW)
    chosen = choose_snapshot(pair, seed, NOW, timedelta(days=window))
    again = replace(pair, snapshots=[*reversed(chain[:-1]), chain[-1]])
    assert choose_snapshot(again, seed, NOW, timedelta(days=window)).snapshot is chosen.snapshot
    recent = [each for each in chain if each.manifest.started >= NOW - timedelta(days=window)]
    assert chosen.snapshot in recent and chosen.candidates == len(recent)
    lots = {each.id: sha256(f"{seed}:{each.id}".encode()).hexdigest() for each in recent}
    assert min(lots, key=lots.__getitem__) == chosen.snapshot.id, "as anybody would repeat it with sha256sum"


def test_every_snapshot_has_its_chance() -> None:
    """Over many seeds every snapshot of the window is chosen about as often as any other."""
    chain = snapshots(10)
    (pair,) = pairs(chain, {each.name: ["usb"] for each in chain}, {"usb": "u"}, (), NOW)
    counts = dict.fromkeys((each.id for each in chain), 0)
    for seed in range(3000):
        counts[choose_snapshot(pair, seed, NOW, timedelta(days=90)).snapshot.id] += 1
    assert all(200 < count < 400 for count in counts.values()), counts


def test_an_old_chain_is_drilled_by_its_newest() -> None:
    """Where the window is empty the newest snapshot is taken: a source that is backed up no more still counts."""
    chain = [replace(each, manifest=each.manifest) for each in snapshots(5, spacing=400)][:-1]
    (pair,) = pairs(chain, {each.name: ["usb"] for each in chain}, {"usb": "u"}, (), NOW)
    assert choose_snapshot(pair, 1, NOW, timedelta(days=90)).snapshot is chain[-1]


@given(
    st.dictionaries(
        st.sampled_from(["tokens", "db", "mail", "www"]), st.sets(st.sampled_from("abcd"), min_size=1), min_size=1
    ),
    st.lists(st.tuples(st.integers(0, 2**32), st.booleans()), min_size=16, max_size=16),
)
def test_turns_cover_every_source_at_every_copy(held: dict[str, set[str]], runs: list[tuple[int, bool]]) -> None:
    """Whatever the seeds and whatever fails: as many drills as there are pairs have covered each pair once."""
    chains = {source: snapshots(2, source) for source in held}
    everything = [each for chain in chains.values() for each in chain]
    holders = {each.name: held[source] for source, chain in chains.items() for each in chain}
    done: list[Drilled] = []
    count = sum(map(len, held.values()))
    for number in range(count):
        seed, passed = runs[number]
        now = NOW + timedelta(days=number)
        at_hand = pairs(everything, holders, {name: name * 32 for name in "abcd"}, done, now)
        assert len(at_hand) == count
        done.append(drilled(choose_pair(at_hand, seed), now, passed=passed))
    assert len({(each.drill.source, each.drill.copy) for each in done}) == count


def test_a_drill_from_the_future_counts_for_nothing() -> None:
    """Nobody silences a copy for years by one drill that is dated ahead; another copy at its place is not meant."""
    chain = snapshots(1)
    holders = {chain[0].name: ["usb"]}
    (pair,) = pairs(chain, holders, {"usb": "u"}, (), NOW)
    ahead = drilled(pair, NOW + timedelta(days=1))
    assert pairs(chain, holders, {"usb": "u"}, [ahead], NOW)[0].last is None
    today = drilled(pair, NOW)
    assert pairs(chain, holders, {"usb": "u"}, [today], NOW)[0].last == today
    assert pairs(chain, holders, {"usb": "v"}, [today], NOW)[0].last is None


# Samples.

NODES = [Node(b"srv/%d" % number, "file", 0o644, 0, 0, mtime=1, size=number * 10) for number in range(2000)]


def test_samples_are_what_they_say() -> None:
    """5 % are about 5 % of the files; a budget is never exceeded and well used; the seed decides which."""
    five = sample_of(wish_of("5%", None), NODES, 1, None)  # type: ignore[arg-type]
    assert 60 < five.files < 140 and five.files == sum(five.takes(node) for node in NODES)
    budget = sample_of(wish_of(None, "10MB"), NODES, 1, None)  # type: ignore[arg-type]
    taken = [node for node in NODES if budget.takes(node)]
    assert (len(taken), sum(node.size for node in taken)) == (budget.files, budget.bytes)
    assert 9_900_000 < budget.bytes <= 10_000_000
    whole = sample_of(wish_of(None, "1TB"), NODES, 1, None)  # type: ignore[arg-type]
    assert whole.files == len(NODES) and all(map(whole.takes, NODES))
    timed = sample_of(wish_of(None, "2s"), NODES, 1, 1_000_000)  # type: ignore[arg-type]
    assert 1_900_000 < timed.bytes <= 2_000_000, "by the rate of the drill before"
    other = sample_of(wish_of("5%", None), NODES, 2, None)  # type: ignore[arg-type]
    assert [node.path for node in NODES if other.takes(node)] != [node.path for node in NODES if five.takes(node)]


@pytest.mark.parametrize(
    ("sample", "budget"),
    [("0%", None), ("101%", None), ("5", None), ("-1%", None), (None, "10"), (None, "5%"), ("5%", "1GB")],
)
def test_nonsense_is_refused(sample: str | None, budget: str | None) -> None:
    """What is no share, no size and no time is refused, and so are two wishes at once."""
    with pytest.raises(UsageError):
        wish_of(sample, budget)
    with pytest.raises(UsageError, match="no file of this snapshot"):
        sample_of(wish_of(None, "1kB"), [Node(b"x", "file", 0, 0, 0, size=2000)], 1, None)  # type: ignore[arg-type]


# The scratch.


def test_the_scratch_goes_whatever_happens(tmp_path: Path) -> None:
    """It is private, and gone after an error, with folders that nobody may write to, and after an interruption."""
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), scratch_in(tmp_path) as made:
            assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
            (made.restored / "closed").mkdir(parents=True)
            (made.restored / "closed" / "file").write_text("plain text")
            (made.restored / "out").symlink_to(tmp_path.parent)
            (made.restored / "closed").chmod(0)
            raise error
        assert not list(tmp_path.iterdir())


def test_wiping_takes_everything_however_it_lies(tmp_path: Path) -> None:
    """Nothing is left of a tree: many folders, hidden ones, odd names, and a file beside folders."""
    with scratch_in(tmp_path) as scratch:
        for number in range(300):
            place = scratch.restored / f"{number % 7}" / f"-{number}" / ".hidden"
            place.mkdir(parents=True)
            (place / "file").write_text("x")
        os.mkdir(os.fsencode(scratch.restored) + b"/\xff\n'")
        (scratch.restored / "7" / "full").mkdir(parents=True)
        for number in range(500):
            (scratch.restored / "7" / "full" / f"{number}").write_text("x")
        (scratch.restored / "beside").write_text("x")
    assert not any(tmp_path.iterdir())


def test_wiping_takes_what_no_path_can_name(tmp_path: Path) -> None:
    """A folder deeper than a path may be long goes too."""
    with scratch_in(tmp_path) as scratch:
        scratch.restored.mkdir()
        _make_deep(scratch.restored, levels=30, name="d" * 200)
    assert not any(tmp_path.iterdir())


def test_wiping_needs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no rm the scratch goes all the same."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with scratch_in(tmp_path) as scratch:
        (scratch.restored / "docs" / "one").mkdir(parents=True)
        (scratch.restored / "docs" / "one" / "file").write_text("x")
    assert not any(tmp_path.iterdir())


def _make_deep(folder: Path, levels: int, name: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=descriptor)
        above, descriptor = descriptor, os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(above)
    os.close(descriptor)


def test_those_who_wipe_share_the_work(tmp_path: Path) -> None:
    """Where nearly all lies below one folder, what is below it is shared; small folders are where the two meet."""
    for number in range(400):
        (tmp_path / "restored" / "lib" / "site" / f"{number}").mkdir(parents=True)
    for name in ("restored/bin", "restored/lib/site/7/below"):
        (tmp_path / name).mkdir()
    for number in range(2000):
        (tmp_path / "restored" / "bin" / f"{number}").touch()
    branches = scratches._branches(tmp_path)
    assert len(branches) == 401 and len(set(branches)) == 401
    assert branches[0] == "restored/bin" and branches[-1] == "restored/lib/site/7"


def test_names_of_what_is_wiped_fit_into_a_command(tmp_path: Path) -> None:
    """Where the folders of a level are too many to be named, those above them are."""
    for number in range(900):
        (tmp_path / "restored" / f"{number % 3}" / f"{number}-{'n' * 150}").mkdir(parents=True)
    assert sorted(scratches._branches(tmp_path)) == ["restored/0", "restored/1", "restored/2"]


def test_an_interrupted_wipe_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the scratch is wiped does not leave it behind."""
    wipe, calls = scratches._wipe, []

    def interrupted(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        wipe(folder)

    monkeypatch.setattr(scratches, "_wipe", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch_in(tmp_path):
        pass
    assert len(calls) == 2 and not list(tmp_path.iterdir())


def test_a_living_drill_is_left_alone(tmp_path: Path) -> None:
    """The next drill removes what a killed one left, and nothing of one that goes on."""
    with scratch_in(tmp_path) as one, scratch_in(tmp_path) as two:
        assert one.folder.is_dir() and two.folder.is_dir()
        dead = tmp_path / "opskit-drill-00000000000a"
        dead.mkdir()
        (dead / "opskit-drill.marker").write_text("")
        (dead / "restored").mkdir()
        empty = tmp_path / "opskit-drill-00000000000b"
        empty.mkdir()
        foreign = tmp_path / "opskit-drill-00000000000c"
        foreign.mkdir()
        (foreign / "opskit-drill.marker").symlink_to(tmp_path / "file")
        (tmp_path / "file").write_text("a file, to which the marker leads")
        link = tmp_path / "opskit-drill-00000000000d"
        link.symlink_to(one.folder)
        assert scratches.sweep(tmp_path) == [dead, empty]
        assert foreign.is_dir() and link.is_symlink() and one.folder.is_dir() and two.folder.is_dir()


def test_what_runs_on_after_a_kill_is_ended(tmp_path: Path) -> None:
    """The next drill ends a command of a killed one, and asks recover.py to end in order, before it wipes."""
    dead = tmp_path / "opskit-drill-00000000000a"
    (dead / "home").mkdir(parents=True)
    (dead / "opskit-drill.marker").write_text("")
    orderly = "trap 'rm key; exit 0' TERM; touch key; echo up; while :; do sleep 0.01; done"
    started = [
        subprocess.Popen(["sh", "-c", script], cwd=tmp_path, env={"HOME": str(home)}, stdout=subprocess.PIPE)
        for home, script in ((dead / "home", "trap '' TERM; echo up; while :; do sleep 0.01; done"), (dead, orderly))
    ]
    try:
        assert [each.stdout.read(3) for each in started if each.stdout] == [b"up\n", b"up\n"]
        assert scratches.sweep(tmp_path) == [dead] and not dead.exists()
        assert [each.wait(5) for each in started] == [-signal.SIGKILL, 0]
        assert not (tmp_path / "key").exists()
    finally:
        for each in started:
            each.kill()
            each.communicate()


def test_room(tmp_path: Path) -> None:
    """Less room than the files take, their blocks included, is StoreFull before anything is written."""
    scratch = Scratch(tmp_path)
    scratch.require_room(1, 1)
    with pytest.raises(StoreFull) as caught:
        scratch.require_room(0, scratch.room() + 10**9)
    assert caught.value.exit_code == 21 and "--sample" in str(caught.value.hint)
    with pytest.raises(StoreFull):
        scratch.require_room(scratch.room(), 0)


def test_a_place_that_cannot_be_made(tmp_path: Path) -> None:
    """A scratch below a file is refused in words."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreRefused), scratch_in(tmp_path / "file" / "scratch"):
        pass


def test_apart_by_inode(tmp_path: Path) -> None:
    """A place inside a source is found through links too; the state folder is apart wherever it lies."""
    source, state = tmp_path / "srv", tmp_path / "srv" / "state"
    state.mkdir(parents=True)
    (tmp_path / "alias").symlink_to(source)
    require_apart(tmp_path / "scratch", {"source srv": source}, state)
    require_apart(state / "scratch", {"source srv": source}, state)
    for place in (source, source / "a" / "b", tmp_path / "alias" / "a"):
        with pytest.raises(UsageError, match="lies inside source srv"):
            require_apart(place, {"source srv": source}, state)


# Commands.


def test_commands_end_in_time(tmp_path: Path) -> None:
    """A command that takes too long is killed and is a failure; so is one that does not exist; secrets are cleaned."""
    runner = Runner(
        tmp_path, os.environ["PATH"], lambda text: text.replace("hunter2", "[secret]"), {"OPSKIT_DRILL": "1"}
    )
    folder = os.fsencode(tmp_path)
    slow = Commands(all=["sleep", "600"], limit=timedelta(milliseconds=50))
    assert "longer than" in judge_all(runner, slow, folder)[0][1]
    assert "cannot be run" in judge_all(runner, Commands(all=["/no/such/program"]), folder)[0][1]
    said = judge_all(
        runner, Commands(all=["sh", "-c", "env | grep -c ^USER=; echo hunter2; exit 7"], redact=str), folder
    )[0][1]
    assert said == "exit status 7: 0 [secret]", "cleaned, and without a variable of ours"
    odd = tmp_path / os.fsdecode(b"latin-\xe9 $(touch x)")
    odd.write_text("")
    each = Commands(each=["test", "-f", "{file}"])
    assert judge_each(runner, each, tmp_path, [os.fsencode(odd.name), b"absent"], folder, 2) == (
        2,
        [(b"absent", "exit status 1")],
    )
    assert not (tmp_path / "x").exists()


# Evidence.


def _evidence(drill: Drill = DRILL) -> Evidence:
    return Evidence("drill", "r" * 32, "drills", NOW, drill)


def test_evidence_round_trip() -> None:
    """What is written is read again as it was; a kind of later days is believed and means nothing."""
    assert forms.decode(forms.encode(_evidence())) == _evidence()
    later = forms.encode(_evidence()).replace(b'"evidence":"drill"', b'"evidence":"checkpoint"')
    assert forms.decode(later).drill is None


def test_evidence_of_before_dumps_were_loaded() -> None:
    """What an older opskit signed says nothing of loading, and is read as none."""
    older = forms.encode(_evidence()).replace(b'"load_ms":0,', b"")
    assert b"load_ms" not in older and forms.decode(older) == _evidence()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"load_ms":0', b'"load_ms":-1'),
        (b'"format":1', b'"format":2'),
        (b'"kind":"evidence"', b'"kind":"mark"'),
        (b'"passed":true', b'"passed":1'),
        (b'"files":10', b'"files":-1'),
        (b'"files":10', b'"files":true'),
        (b'"files":10', b'"files":1.5'),
        (b'"source":"tokens"', b'"source":"<script>"'),
        (b'"chosen":"seeded"', b'"chosen":["seeded"]'),
        (b'"snapshot":"5', b'"snapshot":"x'),
        (b'["hashes",12,12,""]', b'["hashes",12]'),
        (b'"checks":[', b'"checks":{"a":['),
        (b'"elsewhere":{}', b'"elsewhere":{"a":5}'),
        (b'"taken":"2026-11-12T07:00:00Z"', b'"taken":"yesterday"'),
        (b'"writer":"opskit"', b'"writer":"' + b"x" * 501 + b'"'),
    ],
)
def test_evidence_is_read_strictly(old: bytes, new: bytes) -> None:
    """What no opskit writes is damage, whoever signed it."""
    data = forms.encode(_evidence())
    assert old in data
    with pytest.raises(Damaged):
        forms.decode(data.replace(old, new))


@pytest.mark.parametrize("when", ["before", "after", "torn"])
@pytest.mark.parametrize("stops_at", range(3))
def test_evidence_survives_a_crash_at_any_put(lab: Lab, tmp_path: Path, stops_at: int, when: When) -> None:
    """Wherever a run dies while it puts its evidence, the next one leaves it whole at some copy, for sync to spread."""
    data = forms.encode(_evidence())
    name = names.evidence(NOW, "drill", names.sha256(data))
    (tmp_path / "drills").mkdir()
    (tmp_path / "drills" / name.rpartition("/")[2]).write_bytes(data)
    stores = [memory_copy(next(iter(lab.stores.values()))) for _ in range(3)]
    dying = [open_copy(str(number), store) for number, store in enumerate(stores)]
    dying[stops_at].store = FaultyStore(stores[stops_at], crash_at=1, when=when)
    with pytest.raises(Crash):
        outstanding(tmp_path, dying)
    assert not any(outstanding(tmp_path, [open_copy("x", store) for store in stores]).values())
    whole = [store for store in stores if any(info.name == name for info in store.list()) and store.get(name) == data]
    assert whole


def test_evidence_of_elsewhere_is_not_believed(lab: Lab) -> None:
    """Good signatures on evidence of another repository, or under a name that says otherwise, count for nothing."""
    (store,) = lab.stores.values()
    here = replace(_evidence(), repository=lab.repository)
    true, stray = (lab.keys.host.sign(forms.encode(each), lab.keys.host_key) for each in (here, _evidence()))
    store.put(names.evidence(NOW, "drill", names.sha256(true)), true)
    store.put(names.evidence(NOW, "drill", names.sha256(stray)), stray)
    renamed = lab.keys.host.sign(forms.encode(here) + b"\n", lab.keys.host_key)
    store.put(names.evidence(NOW + timedelta(days=300), "drill", names.sha256(renamed)), renamed)
    ledger = forms.load_evidence(
        [open_copy("a", store)],
        lambda data: verify(data, lab.keys.trusted),
        signers=[lab.keys.host_key],
        repository=lab.repository,
    )
    assert [each.id for each in ledger.drills()] == [names.sha256(true)]
    assert sorted("another name" in str(reason) for _, _, reason in ledger.rejected) == [False, True]


# Reports.


def test_reports_cannot_be_steered() -> None:
    """Names of files and texts of programs are text in every form: no markup, no script, no line of their own."""
    evil = "<script>alert(1)</script>\n# heading | [x](http://evil) `code`"
    drill = replace(DRILL, passed=False, checks=[Check("hashes", 1, 2, evil)], elsewhere={"disk": evil}, writer=evil)
    report = Report(Drilled("evidence/x", "a" * 64, "drills", NOW, drill), Details([(evil, evil)], {}), "F" * 40)
    page, text = reports.as_html(report, NOW), reports.as_markdown(report, NOW)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 4 and "default-src 'none'" in page
    assert "\n# heading" not in text and "[x](" not in text and "\\<script\\>" in text
    assert "http" not in page.replace("http-equiv", "").replace("http://evil", ""), "nothing is loaded from anywhere"


@pytest.mark.parametrize("sample", ["", "5%"])
def test_a_missed_objective_is_told(sample: str) -> None:
    """A restore that took longer than the objective passed and missed; of a sample the time says nothing."""
    slow = replace(DRILL, restore_ms=14_400_001, objective_recovery=3599, sample=sample)
    report = Report(Drilled("evidence/x", "a" * 64, "drills", NOW, slow), None)
    assert report.verdict == ("PASSED, RPO MISSED" if sample else "PASSED, RTO and RPO MISSED")
    assert "MISSED" in reports.as_html(report, NOW) and reports.as_json(report)["missed"]
    kept = replace(DRILL, restore_ms=14_400_000, objective_recovery=3600)
    assert Report(Drilled("evidence/x", "a" * 64, "drills", NOW, kept), None).verdict == "PASSED"


def test_what_no_backup_has_is_told_first() -> None:
    """Files that could not be read when the backup was made are in no copy: no report calls the rest all files."""
    checks = [Check("hashes", 9, 9), Check("counts", 1, 1, "3 could not be read when it was backed up")]
    drill = replace(DRILL, checks=checks)
    page = reports.as_html(Report(Drilled("evidence/x", "a" * 64, "drills", NOW, drill), None), NOW)
    assert "all files that the backup could read of tokens" in page
    assert "Not in this backup: 3 could not be read when it was backed up." in page


def test_a_report_says_that_all_was_read_back_only_where_it_was() -> None:
    """Not of a drill that ended before anything was compared, nor of recover.py, whose time ends sooner."""
    broken = replace(DRILL, passed=False, checks=[Check("restore", 0, 1, "Damaged")])
    for drill, is_told in ((DRILL, True), (broken, False), (replace(DRILL, method="stock"), False)):
        report = Report(Drilled("evidence/x", "a" * 64, "drills", NOW, drill), Details([], {}))
        assert ("read back and compared" in reports.as_markdown(report, NOW)) == is_told


def test_long_lists_are_cut_in_pages_alone() -> None:
    """Pages name twenty failures and count the rest; JSON has all."""
    failed = replace(DRILL, passed=False)
    details = Details([(f"/srv/{number}", "lost") for number in range(50)], {})
    report = Report(Drilled("evidence/x", "a" * 64, "drills", NOW, failed), details)
    assert len(reports.as_json(report)["failures"]) == 50
    for text in (reports.as_html(report, NOW), reports.as_markdown(report, NOW)):
        assert "/srv/19" in text and "/srv/20" not in text and "and 30 more" in text


def test_nothing_compared_is_nothing_found() -> None:
    """A comparison that looked at nothing has found nothing wrong, and says that it looked at nothing."""
    assert Compared().wrong == set() and Compared().entries == 0


# Databases that somebody prepared.


def _interrupted(place: Path, *, naming: Path) -> None:
    """A database, and the journal of a transaction that was under way, which names another journal."""
    with sqlite3.connect(place) as database:
        database.execute("CREATE TABLE t (a)")
        database.execute("INSERT INTO t VALUES (zeroblob(20000))")
    database.close()
    data, magic, name = place.read_bytes(), bytes.fromhex("d9d505f920a163d7"), os.fsencode(naming)
    page = data[4096:8192]
    head = magic + struct.pack(">5I", 1, 7, len(data) // 4096, 512, 4096)
    record = struct.pack(">I", 2) + page + struct.pack(">I", 7 + sum(page[4096 - 200 : 0 : -200]))
    other = struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">2I", len(name), sum(name)) + magic
    Path(f"{place}-journal").write_bytes(head.ljust(512, b"\0") + record + other)
    with place.open("r+b") as file:  # what the journal takes back
        file.seek(4096)
        file.write(bytes(4096))


def test_a_journal_that_was_backed_up_names_no_file_outside(tmp_path: Path) -> None:
    """What a journal names is neither read nor deleted, and the journal is replayed all the same."""
    outside, restored = tmp_path / "outside", tmp_path / "restored"
    outside.write_text("of great worth")
    restored.mkdir()
    _interrupted(restored / "app.db", naming=outside)
    assert judge_databases(restored, [b"app.db"]) == []
    assert outside.read_text() == "of great worth"
    assert not (restored / "app.db-journal").exists(), "it was not replayed"


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_a_link_beside_a_database_leads_nowhere(tmp_path: Path, suffix: str) -> None:
    """A link in the place of a journal is not followed, whatever it leads to."""
    outside, restored = tmp_path / "outside", tmp_path / "restored"
    restored.mkdir()
    _interrupted(tmp_path / "other.db", naming=tmp_path / "nothing")
    outside.write_bytes((tmp_path / "other.db-journal").read_bytes())
    before = outside.read_bytes()
    with sqlite3.connect(restored / "app.db") as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (a)")
    database.close()
    (restored / "app.db-wal").write_bytes(b"")
    (restored / f"app.db{suffix}").unlink(missing_ok=True)
    (restored / f"app.db{suffix}").symlink_to(outside)
    assert judge_databases(restored, [b"app.db"]) == []
    assert outside.read_bytes() == before


# Dumps.


def _never() -> Loader:
    raise AssertionError("expected no server to be made")


def test_what_a_database_source_left_must_be_dumps(tmp_path: Path) -> None:
    """Empty files, and others that are no dumps, fail where dumps belong; elsewhere they are only files."""
    for name, text in (("create/a.sql", ""), ("databases/a.sql", ""), ("databases/b.sql", "pg_dump: error: no")):
        place = tmp_path / "restored" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    scratch = tmp_path / "scratch"
    judged = judge_dumps(_never, Questions(), tmp_path / "restored", set(), scratch)
    wrong = dict(judged.failures)
    assert set(wrong) == {b"create/a.sql", b"databases/a.sql", b"databases/b.sql"}
    assert "empty" in wrong[b"databases/a.sql"] and "like no dump" in wrong[b"databases/b.sql"]
    assert [(each.name, each.passed, each.total) for each in judged.checks] == [("dumps", 0, 3)]
    shutil.rmtree(tmp_path / "restored" / "create")
    assert judge_dumps(_never, Questions(), tmp_path / "restored", set(), scratch) == Judged()


def test_queries_that_were_not_asked_are_told(tmp_path: Path) -> None:
    """Where dumps cannot be loaded, the queries of the config stand in the report as not made."""
    (tmp_path / "databases").mkdir()
    (tmp_path / "databases/a.sql").write_text("-- PostgreSQL database dump\n-- PostgreSQL database dump complete\n")

    def none() -> Loader:
        raise SourceError("initdb not found")

    judged = judge_dumps(none, Questions(queries={"a": ["SELECT 1"]}), tmp_path, set(), tmp_path)
    assert [(each.name, each.total) for each in judged.checks] == [("dumps", 0), ("queries", 0)]
    drill = replace(DRILL, checks=judged.checks)
    page = reports.as_html(Report(Drilled("evidence/x", "a" * 64, "drills", NOW, drill), None), NOW)
    assert "Not checked: dumps of databases, the queries of the config" in page

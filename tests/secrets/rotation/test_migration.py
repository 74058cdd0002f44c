"""Items move by real programs that fail, lie, hang and die; none moves twice, and every one is accounted for."""

from __future__ import annotations

import os
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opskit.errors import TargetError
from opskit.secrets.rotation.migration import ITEM, Progress
from tests.secrets.rotation.ground import NEW, OLD, ROTATION, Ground

Made = Callable[..., Ground]


@pytest.fixture
def made(tmp_short: Path) -> Iterator[Made]:
    """Makes a ground in which the moves have those settings."""
    grounds: list[Ground] = []

    def make(**changes: object) -> Ground:
        grounds.append(Ground(tmp_short, changes))
        return grounds[-1]

    yield make
    for each in grounds:
        each.journal.close()


def test_all_move(made: Made) -> None:
    """Each item moves once and is proved once; a second run moves nothing."""
    ground = made()
    ground.add(*(f"item {number}" for number in range(20)))
    assert ground.run() is None
    ground.require_all_moved_once()
    assert ground.migration().has_moved(ROTATION)
    assert ground.run() is None
    assert {ground.count("begun", each) for each in ground.states()} == {1}
    assert {ground.count("asked", each) for each in ground.states()} == {1}


def test_no_items(made: Made) -> None:
    """Where there is nothing under the old value nothing is to be done, and nothing stands against undoing it."""
    ground = made()
    assert ground.run() is None
    assert not ground.migration().has_moved(ROTATION)


@pytest.mark.parametrize("how", ["fail-after", "killed-after", "slow-after"])
def test_a_move_that_ends_badly_and_has_moved(made: Made, how: str) -> None:
    """What the command says of itself is not believed: the item has moved, and does not move again."""
    ground = made(timeout=1.0)
    ground.add("a", how=how)
    ground.add("b")
    assert ground.run() is None
    ground.require_all_moved_once()
    assert ground.states()["a"] == ("done", 1)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("refuse", "move ended with status 1: no room for a"),
        ("lie", "its command ended well, but it has not moved"),
        ("killed-before", "move ended with status -9"),
        ("slow-before", "move did not end in time, and was killed"),
    ],
)
def test_a_move_that_does_not_move(made: Made, how: str, reason: str) -> None:
    """It is tried as often as allowed and told with its reason; others move; mended, it moves once in the next run."""
    ground = made(timeout=1.0)
    ground.add("a", how=how)
    ground.add("b")
    assert ground.run() == "1 items failed; each with its reason: opskit rotate status tokens --items"
    assert ground.states() == {"a": ("failed", 2), "b": ("done", 1)}
    assert str(ground.note("a")).endswith(reason)
    asked = ground.count("asked", "a")
    ground.add("a", how="")
    (ground.base / "how" / "a").unlink()
    assert ground.run() is None
    ground.require_all_moved_once()
    assert ground.states()["a"] == ("done", 3)
    assert ground.count("asked", "a") == asked + 2  # before it was tried again, and after


def test_a_move_that_succeeds_the_second_time(made: Made) -> None:
    """One that did not move is tried again in the same run."""
    ground = made()
    ground.add("a", how="once")
    assert ground.run() is None
    assert ground.states() == {"a": ("done", 2)}


@pytest.mark.parametrize("how", ["", "refuse"])
def test_a_verify_command_that_cannot_tell(made: Made, how: str) -> None:
    """While nobody knows whether an item moved it is left alone, run after run; once that is known it goes on."""
    ground = made()
    ground.add("a", how=how)
    (ground.base / "unknown" / "a").touch()
    for _ in range(3):
        assert "1 items failed" in str(ground.run())
        assert ground.count("begun", "a") == 1
        assert "nobody knows whether it moved, so it is left alone" in str(ground.note("a"))
    assert ground.migration().has_moved(ROTATION)
    (ground.base / "unknown" / "a").unlink()
    (ground.base / "how" / "a").unlink(missing_ok=True)
    assert ground.run() is None
    ground.require_all_moved_once()


def test_a_verify_command_that_takes_too_long(made: Made) -> None:
    """No answer is no "no"."""
    ground = made(timeout=0.5)
    ground.verify = ground.program("verify", "sleep 60")
    ground.add("a")
    assert "1 items failed" in str(ground.run())
    assert ground.count("begun", "a") == 1


@pytest.mark.parametrize("has_moved", [True, False])
def test_an_item_whose_run_was_killed(made: Made, has_moved: bool) -> None:
    """An item that the journal has as running was interrupted: it is asked about before anything is done with it."""
    ground = made()
    ground.add("a")
    ground.journal.list_parts(ROTATION, ITEM, ["a"], 0.0)
    ground.journal.mark(ROTATION, ITEM, [("a", "running", None, 0)], 0.0)
    assert ground.migration().has_moved(ROTATION)
    if has_moved:
        (ground.base / "old" / "a").rename(ground.base / "new" / "a")
    assert ground.run() is None
    assert ground.count("begun", "a") == (0 if has_moved else 1)
    assert ground.count("asked", "a") == (1 if has_moved else 2)
    assert ground.states()["a"] == ("done", 0 if has_moved else 1)


def test_many_items_whose_run_was_killed(made: Made) -> None:
    """Interrupted items that are taken up side by side are each taken up once."""
    ground = made(parallel=3)
    ground.add(*"abcdefgh", how="lie")
    assert "8 items failed" in str(ground.run())
    ground.move = ground.program(
        "move", 'echo begun >> "$BASE/begun/${1#item=}"; sleep 0.0$(od -An -N1 -tu1 /dev/urandom | tr -d " ")'
        '; mv "$BASE/old/${1#item=}" "$BASE/new/${1#item=}"; echo x >> "$BASE/moved/${1#item=}"',
    )  # fmt: skip
    assert ground.run() is None
    ground.require_all_moved_once()
    assert {ground.count("begun", each) for each in ground.states()} == {3}  # two of them were lies


@pytest.mark.parametrize("text", ["exit 2", None])
def test_a_killed_run_of_which_nobody_knows(made: Made, text: str | None) -> None:
    """An item that was being moved when the run died counts as moved until a verify command says that it did not."""
    ground = made()
    ground.add("a")
    ground.verify = ground.program("verify", text) if text else "/nowhere/verify"

    class Died(Exception):
        pass

    def dies(_: Progress) -> None:
        ground.journal.mark(ROTATION, ITEM, [("a", "running", None, 0)], 0.0)  # as it was while its move ran
        raise Died

    ground.progress = dies
    with pytest.raises(Died):
        ground.run()
    ground.progress = lambda _: None
    for _ in range(2):
        assert "1 items failed" in str(ground.run())
        assert ground.migration().has_moved(ROTATION)
        assert ground.count("begun", "a") == 1


def test_an_item_that_came_back(made: Made) -> None:
    """An item that moved, and is listed under the old value again, is told and never moved a second time."""
    ground = made()
    ground.add("a", "b")
    assert ground.run() is None
    (ground.base / "new" / "a").rename(ground.base / "old" / "a")
    assert ground.migration().left(ROTATION, OLD, NEW) == 1
    assert ground.run() is None
    assert ground.count("begun", "a") == 1
    assert ground.migration().left(ROTATION, OLD, NEW) == 1


def test_what_is_left(made: Made) -> None:
    """What is listed counts as left unless it is known to have moved: a list that tells too much does no harm."""
    ground = made()
    ground.add("a", "b")
    (ground.base / "new" / "a").touch()  # it seems to have moved, but not by us
    assert ground.migration().left(ROTATION, OLD, NEW) == 2
    (ground.base / "new" / "a").unlink()
    assert ground.run() is None
    ground.list = ground.program("list", "printf 'a\\nb\\n'")
    assert ground.migration().left(ROTATION, OLD, NEW) == 0


def test_items_that_are_listed_twice(made: Made) -> None:
    """One item is one item, however often it is listed."""
    ground = made(parallel=4)
    ground.add("a", "b")
    ground.list = ground.program("list", "printf 'a\\nb\\na\\r\\n\\na\\nb'")
    assert ground.run() is None
    ground.require_all_moved_once()


def test_items_that_arrive_meanwhile(made: Made) -> None:
    """The list is asked until nothing new came twice in a row."""
    ground = made()
    ground.add("a", how="adds")
    ground.add("more of a", how="adds")
    assert ground.run() is None
    ground.require_all_moved_once()
    assert len(ground.states()) == 3


def test_an_item_that_arrives_after_an_empty_list(made: Made) -> None:
    """One empty list is no proof: an item that only the second one shows moves too."""
    ground = made()
    ground.add("a", "late")
    ground.list = ground.program(
        "list", 'echo x >> "$BASE/lists"; echo a; [ "$(wc -l < "$BASE/lists")" -lt 3 ] || echo late'
    )
    assert ground.run() is None
    ground.require_all_moved_once()
    assert len((ground.base / "lists").read_text().splitlines()) == 5


@pytest.mark.parametrize("text", ["echo a; echo 'no such wallet' >&2; exit 3", "printf 'a\\n\\377\\n'", "kill -9 $$"])
def test_a_list_that_fails(made: Made, text: str) -> None:
    """Nothing is moved by half a list."""
    ground = made()
    ground.add("a")
    ground.list = ground.program("list", text)
    with pytest.raises(TargetError, match="list"):
        ground.run()
    assert not ground.states()
    assert not ground.migration().has_moved(ROTATION)


NAMES = [
    "two words", " blank ahead", "blank behind ", "'single'", '"double"', "$(touch x)", "`x`", "a;b", "*", "-rf",
    "--help", "\u00e4\u00f6\u00fc \u6f22\u5b57 \U0001f511", "{old}", "%s", "back\\slash", "tab\there", "x" * 200,
]  # fmt: skip


def test_names_of_items(made: Made) -> None:
    """An item may be called anything that fits in a line: it reaches the programs as it was listed."""
    ground = made()
    ground.add(*NAMES)
    assert ground.run() is None
    ground.require_all_moved_once()
    assert set(ground.states()) == set(NAMES)


def test_a_name_that_would_be_an_option(made: Made) -> None:
    """Where a name would reach a program as an option that is not started, and nothing counts as moved."""
    ground = made()
    ground.changes = {"move": (ground.move, "{item}"), "verify": (ground.verify, "{item}")}
    ground.add("-rf")
    assert "1 items failed" in str(ground.run())
    assert "would be taken for an option" in str(ground.note("-rf"))
    assert ground.states() == {"-rf": ("failed", 0)}
    assert not ground.migration().has_moved(ROTATION)


def test_a_command_that_is_not_there(made: Made) -> None:
    """What cannot be started is told of each item; nothing counts as moved."""
    ground = made(move=("/nowhere/move", "{item}"))
    ground.add("a", "b")
    assert "2 items failed" in str(ground.run())
    assert ground.note("a") == "cannot run /nowhere/move: no such file or directory"
    assert not ground.migration().has_moved(ROTATION)


def test_memory_does_not_grow_with_the_items(made: Made) -> None:
    """1,000 items need no more memory than the text of their list, and a little."""
    ground = made(move=("/bin/true", "{item}"), verify=("/bin/true", "{item}"), parallel=2)
    ground.list = ground.program("list", 'i=0; while [ $i -lt 1000 ]; do echo "item-$i"; i=$((i + 1)); done')
    progress: list[Progress] = []
    ground.progress = lambda each: progress.__setitem__(slice(None), [each])
    tracemalloc.start()
    try:
        assert ground.run() is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500_000
    assert progress == [Progress(1000, 0, 1000)]


@pytest.mark.parametrize("parallel", [1, 3])
def test_the_limit_of_parallel_moves(made: Made, parallel: int) -> None:
    """As many moves as allowed run at once, and never one more."""
    ground = made(parallel=parallel)
    (ground.base / "now").mkdir()
    ground.move = ground.program(
        "move",
        """item=${1#item=}; touch "$BASE/now/$item"; sleep 0.1; ls "$BASE/now" | wc -l >> "$BASE/at-once"
        rm "$BASE/now/$item"; mv "$BASE/old/$item" "$BASE/new/$item"; echo x >> "$BASE/moved/$item" """,
    )
    ground.add(*"abcdefghi")
    assert ground.run() is None
    ground.require_all_moved_once()
    assert max(int(line) for line in (ground.base / "at-once").read_text().split()) == parallel


def test_a_timeout_ends_all_that_was_started(made: Made) -> None:
    """A command that takes too long is killed with its children: nothing moves behind our back afterwards."""
    ground = made(timeout=0.5, attempts=1)
    ground.move = ground.program("move", 'sleep 60 & echo $! > "$BASE/child"; wait')
    ground.add("a")
    started = time.monotonic()
    assert "1 items failed" in str(ground.run())
    assert time.monotonic() - started < 10
    child = int((ground.base / "child").read_text())
    for _ in range(100):
        if not _is_alive(child):
            return
        time.sleep(0.05)
    pytest.fail("a child outlived its command")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_addresses_are_asked_once(made: Made) -> None:
    """An address program that gives another answer each time is believed once a value, in all runs."""
    ground = made()
    address = ground.program("address", 'echo x >> "$BASE/addresses"; echo "$(cat)@$(wc -l < "$BASE/addresses")"')
    seen = ground.base / "seen"
    ground.verify = ground.program("verify", f'echo "$2 $3" >> {seen}; [ -e "$BASE/new/${{1#item=}}" ] || exit 1')
    ground.changes = {
        "address": (address,), "verify": (ground.verify, "item={item}", "{old_address}", "{new_address}"),
    }  # fmt: skip
    for item in "ab":
        ground.add(item)
        assert ground.run() is None
    assert set(seen.read_text().splitlines()) == {"old-sentinel-value@1 new-sentinel-value@2"}
    assert len((ground.base / "addresses").read_text().splitlines()) == 2


@pytest.mark.parametrize("text", ["true", "echo a; echo b", "echo a; exit 1"])
def test_an_address_that_is_none(made: Made, text: str) -> None:
    """Anything but one line of a program that ended well is no address: nothing moves."""
    ground = made()
    ground.changes = {"address": (ground.program("address", text),)}
    ground.add("a")
    with pytest.raises(TargetError, match="expected an address, which is one line"):
        ground.run()
    assert ground.count("begun", "a") == 0


def test_values_in_the_environment(made: Made) -> None:
    """A value that is asked for as a variable is in the environment of that program, and nowhere else to be seen."""
    ground = made(env={"OLD_KEY": "old", "NEW_KEY": "new"})
    look = 'cat /proc/$$/cmdline /proc/$PPID/cmdline /proc/$PPID/environ >> "$BASE/others"; '
    own = '[ "$OLD_KEY:$NEW_KEY:$(cat)" = "old-sentinel-value:new-sentinel-value:%s-sentinel-value" ] || exit 9; '
    move = 'mv "$BASE/old/${1#item=}" "$BASE/new/${1#item=}"'
    ground.move = ground.program("move", look + own % "old" + move)
    ground.verify = ground.program("verify", look + own % "new" + '[ -e "$BASE/new/${1#item=}" ] || exit 1')
    ground.add("a")
    assert ground.run() is None
    assert b"sentinel-value" not in (ground.base / "others").read_bytes()
    assert b"move" in (ground.base / "others").read_bytes()
    assert not [each for each in os.environ.values() if "sentinel-value" in each]


def test_the_journal_holds_no_value(made: Made) -> None:
    """Items, states and reasons are kept; values are not."""
    ground = made()
    ground.add("a", "b")
    ground.run()
    for path in ground.base.glob("journal.sqlite*"):
        assert b"sentinel" not in path.read_bytes()


def test_a_first_value_has_no_old_one(made: Made) -> None:
    """Where there was no value before, what is listed moves all the same."""
    ground = made(env={"OLD_KEY": "old"})
    ground.add("a")
    assert ground.migration().move(ROTATION, None, NEW) is None
    ground.require_all_moved_once()


def test_somebody_asks_to_stop(made: Made) -> None:
    """An interrupt in the middle lets what runs end, notes it, and begins nothing more; the next run moves the rest."""
    ground = made(parallel=3)
    ground.add(*"abcdefghijkl")
    told: list[Progress] = []

    def interrupts(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 2:
            signal.raise_signal(signal.SIGINT)

    ground.progress = interrupts
    with pytest.raises(KeyboardInterrupt):
        ground.run()
    states = ground.states()
    assert {state for state, _ in states.values()} == {"done", "todo"}
    for item, (state, _) in states.items():
        assert ground.count("moved", item) == (1 if state == "done" else 0)
    assert 2 <= sum(state == "done" for state, _ in states.values()) <= 6
    assert ground.run() is None
    ground.require_all_moved_once()


def test_progress_is_told(made: Made) -> None:
    """After every item it is told how many have moved, failed and are known."""
    ground = made(attempts=1)
    ground.add("a", "c")
    ground.add("b", how="refuse")
    told: list[Progress] = []
    ground.progress = told.append
    ground.run()
    assert told == [Progress(1, 0, 3), Progress(1, 1, 3), Progress(2, 1, 3)]

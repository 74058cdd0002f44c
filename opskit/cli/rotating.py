"""What `opskit rotate` does behind its commands: one machine after another, each step recorded, outcomes told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from opskit import rotations, wiring
from opskit.cli.auditing import audited, judged
from opskit.cli.context import Context
from opskit.cli.failures import Failure, failure_of, report
from opskit.cli.key_ages import key_standings
from opskit.cli.render import counted, human_duration, printable, table
from opskit.cli.rotation_plan import is_told_again, spoken, steps_of
from opskit.errors import OpskitError, RotationLocked, StateFull, StateRefused, UsageError
from opskit.secrets.rotation.machine import GIVEN_UP
from opskit.secrets.rotation.migration import ITEM, Progress
from opskit.secrets.rotation.schedule import Standing, standing
from opskit.secrets.rotation.state import Rotation, State

if TYPE_CHECKING:
    from opskit.config.rotating import Rotation as Entry
    from opskit.secrets.rotation.journal import Journal
    from opskit.secrets.rotation.machine import Machine

_BAD = 3
Act = Callable[["Machine", Rotation | None], Rotation]


class Rotating:
    """One command on the rotations of a config."""

    def __init__(self, context: Context, *, hurry: bool = False) -> None:
        self._context, self._config, self._hurry = context, context.load_config(), hurry
        self._world = rotations.World(context.environ, lambda: wiring.now().timestamp(), context.find_config())
        self._progress = Progress(0, 0, 0)

    def plan(self, names: Sequence[str] | None) -> int:
        """Tell of each what would be done; 3 where one could not begin."""
        code, told = 0, []
        with closing(rotations.journal_of(self._config)) as journal:
            for name in names or sorted(self._config.rotations):
                entry, obstacle, old = rotations.entry_of(name, self._config), None, None
                with audited(self._context, self._config, "rotate.plan", name, changes=False) as event:
                    try:
                        with rotations.machine(name, self._config, self._world, journal) as machine:
                            old = machine.plan()
                            rotations.require_programs(name, self._config, self._world)
                    except OpskitError as error:
                        obstacle = error
                    code = max(code, judged(event, _BAD if obstacle else 0))
                told.append({"name": name, "steps": steps_of(entry), "obstacle": obstacle and str(obstacle)})
                self._tell_plan(name, entry, obstacle, is_first=old is None)
        if self._context.json:
            self._context.write_json(told)
        return code

    def run(self, names: Sequence[str] | None, *, recover: bool) -> int:
        """Begin rotations of these, or of all that are due; those that wait for their time only are retired first."""
        if names:
            return self._each({name: partial(self._begun, name, recover=recover) for name in names}, "rotate.run")
        with closing(rotations.journal_of(self._config)) as journal:
            found = self._standings(journal, None)
        now = self._world.now()
        waiting = [each for each in found if each.next_action == "rotate retire"]
        ripe = [each.name for each in waiting if each.rotation and (each.rotation.waits_until or now) <= now]
        fresh = [each.name for each in found if each.next_action == "rotate run"]
        acts: dict[str, Act] = dict.fromkeys(ripe, _retired)
        return self._each({**acts, **{name: partial(self._begun, name) for name in fresh}}, "rotate.run")

    def _begun(self, name: str, machine: Machine, _: Rotation | None, *, recover: bool = False) -> Rotation:
        rotations.require_programs(name, self._config, self._world)
        return machine.advance(machine.begin(recover=recover))

    def resume(self, names: Sequence[str] | None) -> int:
        """Go on with those under way; consumers that were put back to another value are told again."""
        names = names or self._under_way(lambda _: True)
        if not names:
            self._context.message("no rotation is under way")
        return self._each(dict.fromkeys(names, _resumed), "rotate.resume")

    def retire(self, names: Sequence[str] | None) -> int:
        """End old values; a rotation that has not come so far, or goes back, is left to `resume`: it may be paused."""
        names = names or self._under_way(_is_retiring)
        if not names:
            self._context.message("no old value is to be ended")
        return self._each(dict.fromkeys(names, _retired), "rotate.retire")

    def undo(self, name: str, *, give_up: bool) -> int:
        """Take one back, or end it as it is."""

        def undone(machine: Machine, rotation: Rotation | None) -> Rotation:
            if rotation is None:
                raise UsageError(f"{name} was never rotated: nothing to undo")
            if give_up:
                return machine.give_up(rotation)
            return machine.advance(rotation) if rotation.is_back and not rotation.is_over else machine.undo(rotation)

        return self._each({name: undone}, "rotate.undo")

    def status(self, names: Sequence[str] | None) -> int:
        """List all, or these; 3 where one is overdue or has stopped."""
        with closing(rotations.journal_of(self._config)) as journal:
            found = self._standings(journal, names)
            orphans = [] if names else rotations.orphans(self._config, journal)
        if not names:
            found += key_standings(self._config, self._world.now())
        if self._context.json:
            self._context.write_json([_as_json(each) for each in found])
        else:
            self._tell_standings(found)
        for each in orphans:
            self._context.warning(
                f"{printable(each.name)} is under way ({each.shown}), and not in the config: nothing goes on with it"
            )
            self._context.hint(f"give its entry ({printable(each.secret)}) that name again")
        return _BAD if orphans or any(each.is_bad for each in found) else 0

    def items(self, name: str) -> int:
        """List every item of the last rotation."""
        rotations.entry_of(name, self._config)
        with closing(rotations.journal_of(self._config)) as journal:
            rotation = journal.latest(name)
            parts = [] if rotation is None else journal.parts(rotation, ITEM)
        if self._context.json:
            self._context.write_json(
                [
                    {"item": each.id, "state": each.state, "attempts": each.attempts, "reason": each.note}
                    for each in parts
                ]
            )
        for each in parts if not self._context.json else ():
            note = f"   {printable(each.note)}" if each.note else ""
            self._context.write(
                f"{each.state:<7}  {counted(each.attempts, 'try', 'tries'):>8}  {printable(each.id)}{note}"
            )
        return _BAD if any(each.state == "failed" for each in parts) else 0

    def _under_way(self, wanted: Callable[[Rotation], bool]) -> list[str]:
        with closing(rotations.journal_of(self._config)) as journal:
            found = [each.rotation for each in self._standings(journal, None)]
        return [each.name for each in found if each is not None and not each.is_over and wanted(each)]

    # One machine after another

    def _each(self, acts: Mapping[str, Act], op: str) -> int:
        """Do it for each; one that cannot be done keeps no other from it. The first failure's exit code counts."""
        for name in acts:
            rotations.entry_of(name, self._config)
        outcomes: dict[str, dict[str, object]] = {name: _outcome(name, "not tried") for name in acts}
        try:
            with closing(rotations.journal_of(self._config)) as journal:
                codes = [self._turn(each, journal, op, act, outcomes) for each, act in acts.items()]
        finally:  # whatever ends it: what was done until then is told
            if self._context.json:
                self._context.write_json([*outcomes.values()])
        failed = [name for name, outcome in outcomes.items() if outcome["outcome"] == "failed"]
        if failed and len(acts) > 1:
            self._context.warning(f"{len(failed)} of {len(acts)} could not be done: {', '.join(failed)}")
        return next((code for code, is_failure in codes if is_failure), max((code for code, _ in codes), default=0))

    def _turn(
        self, name: str, journal: Journal, op: str, act: Act, outcomes: dict[str, dict[str, object]]
    ) -> tuple[int, bool]:
        """The turn of one, told at once: its exit code, and whether that is of an error."""
        outcomes[name] = _outcome(name, "interrupted")  # until it has come to an end
        before = _latest(name, journal)
        try:
            rotation = self._one(name, journal, op, act)
        except OpskitError as error:
            failure = self._tell_failure(name, journal, error, is_alone=len(outcomes) == 1)
            after = _latest(name, journal)
            mine = after if after is not None and (after != before or not after.is_over) else None
            outcomes[name] = _outcome(name, "failed", mine, failure)
            return error.exit_code, True
        outcomes[name] = _outcome(name, "done", rotation)
        self._tell_end(rotation, journal)
        return _code_of(rotation), False

    def _one(self, name: str, journal: Journal, op: str, act: Act) -> Rotation:
        telling = rotations.Telling(partial(self._around, journal), self._note_progress, self._hurry)
        with audited(self._context, self._config, op, name, hurry=self._hurry) as event:
            with rotations.machine(name, self._config, self._world, journal, telling) as machine:
                rotation = act(machine, journal.latest(name))
            judged(event, _code_of(rotation), rotation=rotation.id, state=rotation.shown, problem=rotation.problem)
        return rotation

    @contextmanager
    def _around(self, journal: Journal, rotation: Rotation, step: str) -> Iterator[None]:
        """Record a step while it is made, and tell of it."""
        entry = self._config.rotations[rotation.name]
        tell = self._context.warning if is_told_again(step) else self._context.message
        tell(f"{printable(rotation.name)}: {spoken(entry, rotation, step)}")
        about = {"rotation": rotation.id, "old": rotation.old_print, "new": rotation.new_print}
        target = f"{rotation.name} {step}"
        with audited(self._context, self._config, "rotate.step", target, values=about) as event:
            yield
            if step == "items":
                event.note(items=journal.counts(rotation, ITEM))

    def _note_progress(self, progress: Progress) -> None:
        tenth = max(progress.total // 10, 1)
        if progress.done // tenth != self._progress.done // tenth or progress.failed != self._progress.failed:
            failed = f", {progress.failed:,} failed" if progress.failed else ""
            self._context.message(f"  {progress.done:,} of {counted(progress.total, 'item')} moved{failed}")
        self._progress = progress

    def _standings(self, journal: Journal, names: Sequence[str] | None) -> list[Standing]:
        latest, completed, now = journal.all_latest(), journal.completed(), self._world.now()
        wanted = {name: rotations.entry_of(name, self._config) for name in names or sorted(self._config.rotations)}
        found = [standing(name, entry.every.total_seconds(), now, latest, completed) for name, entry in wanted.items()]
        return [replace(each, is_at_work=rotations.is_at_work(each.name, self._config)) for each in found]

    # What is told

    def _tell_plan(self, name: str, entry: Entry, obstacle: OpskitError | None, *, is_first: bool) -> None:
        if self._context.json:
            return
        self._context.write(f"{name}   {printable(str(entry.secret))}")
        for step in steps_of(entry):
            self._context.write(f"  {printable(step)}")
        if obstacle is None:
            found = "there is no value yet" if is_first else "the current value is accepted"
            self._context.write(f"  {found}: it can begin")
            return
        self._context.warning(printable(f"{name} cannot begin: {obstacle}"))
        if obstacle.hint:
            self._context.hint(printable(obstacle.hint))

    def _tell_end(self, rotation: Rotation, journal: Journal) -> None:
        counts = journal.counts(rotation, ITEM)
        moved = f", {counted(counts.get('done', 0), 'item')} moved" if counts else ""
        self._context.message(f"{printable(rotation.name)}: {rotation.shown}{moved}")
        if rotation.cause and rotation.is_back:
            said = "" if rotation.cause.startswith(GIVEN_UP) else "the old value is back: "
            self._context.warning(printable(f"{rotation.name}: {said}{rotation.cause}"))
        if rotation.waits_until is not None:
            self._context.message(f"  {rotation.problem}: opskit rotate retire {rotation.name}")
        elif rotation.problem is not None:
            self._context.warning(printable(f"{rotation.name}: {rotation.problem}"))
            self._context.hint(f"when that is mended: opskit rotate resume {rotation.name}")

    def _tell_failure(self, name: str, journal: Journal, error: OpskitError, *, is_alone: bool) -> Failure:
        """An error in its place, and where it left the rotation; what can be done goes with it."""
        self._tell_stop(name, journal, error)
        failure = failure_of(error)
        if not is_alone:
            failure = replace(failure, message=f"{name}: {failure.message}")
        report(failure, error, self._context, as_json=False)
        return failure

    def _tell_stop(self, name: str, journal: Journal, error: OpskitError) -> None:
        rotation = _latest(name, journal)
        if rotation is None or rotation.is_over:
            if isinstance(error, StateFull | StateRefused):
                error.hint = "nothing was begun; when that is mended, run the command again"
            return
        is_refusal = isinstance(error, UsageError | RotationLocked)
        if is_refusal and (rotation.problem is None or rotation.waits_until is not None):
            return
        self._context.warning(f"{name} has stopped: {'on the way back' if rotation.is_back else rotation.shown}")
        is_late = rotation.is_back or journal.was_intended(rotation, State.OLD_DELETED)
        back = "" if is_late else f", or to go back: opskit rotate undo {name}"
        if "opskit rotate" not in (error.hint or ""):
            mended = f"when that is mended: opskit rotate resume {name}{back}"
            error.hint = mended if error.hint is None else f"{error.hint}\n{mended}"

    def _tell_standings(self, found: Sequence[Standing]) -> None:
        if not found:
            self._context.message("the config names no rotation")
            return
        now = self._world.now()
        rows = [[each.name, _age(each), _due(each, now), _state(each)] for each in found]
        for line in table(rows, ["secret", "age", "next due", "last rotation"]):
            self._context.write(line)
        for each in found:
            if each.has_stopped and each.rotation is not None and each.rotation.problem:
                self._context.warning(printable(f"{each.name}: {each.rotation.problem}"))
        for action, all_of_them in (("rotate resume", ""), ("rotate run", " --due"), ("rotate retire", "")):
            names = [each.name for each in found if each.next_action == action and not _still_waits(each, now)]
            if names:
                self._context.hint(f"opskit {action}{all_of_them if len(names) > 1 else f' {names[0]}'}")
        for each in found:
            if each.is_overdue and each.next_action and each.next_action.startswith("keys"):
                self._context.hint(f"opskit {each.next_action}")


def _resumed(machine: Machine, rotation: Rotation | None) -> Rotation:
    return _advanced(machine, rotation, tells_again=True)


def _advanced(machine: Machine, rotation: Rotation | None, *, tells_again: bool = False) -> Rotation:
    if rotation is None or rotation.is_over:
        state = "never begun" if rotation is None else f"over: {rotation.shown}"
        raise UsageError(f"no rotation to go on with: it is {state}", hint="opskit rotate status")
    return machine.advance(rotation, tells_again=tells_again)


def _is_retiring(rotation: Rotation) -> bool:
    return rotation.has(State.GRACE) and not rotation.is_back


def _retired(machine: Machine, rotation: Rotation | None) -> Rotation:
    if rotation is not None and not rotation.is_over and not _is_retiring(rotation):
        raise UsageError(
            f"the rotation of {rotation.name} has not come to its old value: {rotation.shown}",
            hint=f"opskit rotate resume {rotation.name}",
        )
    return _advanced(machine, rotation)


def _code_of(rotation: Rotation) -> int:
    """0 where it is done, or undone as somebody asked, or nothing but time is missing."""
    is_done = rotation.state is State.OLD_DELETED or (rotation.state is State.ROLLED_BACK and rotation.cause is None)
    return 0 if is_done or rotation.waits_until is not None else _BAD


def _age(each: Standing) -> str:
    return "not known" if each.age is None else human_duration(each.age)


def _due(each: Standing, now: float) -> str:
    if each.due is None:
        return "now !"
    return f"{human_duration(now - each.due)} overdue !" if each.is_overdue else f"in {human_duration(each.due - now)}"


def _still_waits(each: Standing, now: float) -> bool:
    return each.rotation is not None and (each.rotation.waits_until or 0) > now


def _state(each: Standing) -> str:
    if each.rotation is None:
        return "never"
    return str(each.rotation.shown) + (" !" if each.has_stopped else ", at work" if each.is_at_work else "")


def _latest(name: str, journal: Journal) -> Rotation | None:
    """The last rotation of a name, where that can be read: only what is told depends on it."""
    try:
        return journal.latest(name)
    except OpskitError:
        return None


def _outcome(
    name: str, outcome: str, rotation: Rotation | None = None, failure: Failure | None = None
) -> dict[str, object]:
    """What became of one that a command was asked for; its error in the shape that other commands give theirs."""
    facts = {} if rotation is None else _rotation_as_json(rotation)
    return {"name": name, "outcome": outcome, "error": failure and asdict(failure), **facts}


def _rotation_as_json(rotation: Rotation) -> dict[str, object]:
    return {
        "rotation": rotation.id, "secret": rotation.secret, "state": rotation.shown, "reached": rotation.reached,
        "undone": rotation.is_back, "problem": rotation.problem or rotation.cause, "waits_until": rotation.waits_until,
        "old": rotation.old_print, "new": rotation.new_print,
    }  # fmt: skip


def _as_json(each: Standing) -> dict[str, object]:
    last = None if each.rotation is None else _rotation_as_json(each.rotation)
    return {
        "name": each.name, "age_seconds": each.age, "due": each.due, "overdue": each.is_overdue,
        "next_action": each.next_action, "last": last,
    }  # fmt: skip

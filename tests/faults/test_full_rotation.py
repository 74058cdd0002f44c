"""Rotations while the real disk under the state folder is full: journal, audit log and gpg file all lie on it."""

from __future__ import annotations

import hashlib
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from opskit import log
from tests.cli.hosts import Answer, Machine
from tests.contracts.targets.command import PROGRAM
from tests.stores.mounts import MEBIBYTE, mounted
from tests.telling import Tell

OLD = "the-old-password-of-january"
KIBIBYTE = 1024
FILLING = """
import os, subprocess, sys
place, plan, verb = sys.argv[1:4]

def fill(when):
    if not os.path.exists(plan) or open(plan).read().split()[:2] != [verb, when]:
        return
    leave = int(open(plan).read().split()[2])
    os.unlink(plan)
    free = lambda: os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    with open(os.path.join(place, "ballast"), "wb", buffering=0) as file:
        while free() > leave:
            file.write(bytes(4096))

fill("before")
status = subprocess.call(sys.argv[4:], close_fds=False)
fill("after")
sys.exit(status)
"""
ENTRY = """
rotations:
  db:
    secret: gpg://{state}/secrets.gpg#db
    propagation: 1s
    grace: 1s
    observe: 1s
    command:
      apply: [{filling}, apply, {target}, apply, {accepted}, {slots}, "{{old}}"]
      check: [{filling}, check, {target}, check, {accepted}, {slots}]
      disable: [{filling}, disable, {target}, disable, {accepted}, {slots}]
      delete: [{filling}, delete, {target}, delete, {accepted}, {slots}]
      keeps_old: {keeps_old}
    consumers:
      app:
        files: {{{outside}/app.conf: "password = {{value}}"}}
        reload: [{filling}, reload, "true"]
        check: [{filling}, works, grep, -q, "^password = ", {outside}/app.conf]
"""
POINTS = [
    (verb, when)
    for verb in ("apply", "check", "reload", "works", "disable", "delete")
    for when in ("before", "after")
]  # fmt: skip
LEAVES = (0, 4 * KIBIBYTE, 8 * KIBIBYTE, 24 * KIBIBYTE, 48 * KIBIBYTE)


@pytest.fixture(autouse=True)
def _log_as_new() -> Iterator[None]:
    """The commands set the log up; the tests after these find it as it was."""
    yield
    log.configure()


@dataclass(frozen=True)
class Scene:
    """A host on a small disk of its own, and what lies on another: the target, and a consumer's file."""

    host: Machine
    outside: Path
    ballast: Path

    def plan(self, verb: str, when: str, leave: int) -> None:
        """Let the disk be filled by that program, to so many bytes."""
        (self.outside / "plan").write_text(f"{verb} {when} {leave}")

    @property
    def used(self) -> str:
        """The value that the consumer has."""
        return (self.outside / "app.conf").read_text().removeprefix("password = ")

    def is_accepted(self, value: str) -> bool:
        return (self.outside / "accepted" / hashlib.sha256(value.encode()).hexdigest()).exists()

    def resume(self) -> Answer:
        return self.host.run("rotate", "resume", "db")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A host without any rotation yet."""
    machine = Machine(tmp_path_factory.mktemp("hosts") / "host")
    machine.source.mkdir(parents=True)
    assert machine.init().code == 0
    return machine


def scene(template: Machine, place: Path, outside: Path, slots: str) -> Scene:
    """The host on that disk, with a rotation whose target has one slot or two."""
    host = template.copy_to(place / "host")
    (outside / "accepted").mkdir(parents=True)
    (outside / "accepted" / hashlib.sha256(OLD.encode()).hexdigest()).touch()
    (outside / "app.conf").write_text(f"password = {OLD}")
    (outside / "filling.py").write_text(FILLING)
    (outside / "target.py").write_text(PROGRAM)
    python = f"{sys.executable}, -S"
    text = ENTRY.format(
        state=host.state, outside=outside, accepted=outside / "accepted", slots=slots,
        filling=f"{python}, {outside}/filling.py, {place}, {outside}/plan", target=f"{python}, {outside}/target.py",
        keeps_old=str(slots == "two").lower(),
    )  # fmt: skip
    host.config.write_text(host.config.read_text() + textwrap.dedent(text))
    process = host.start("secrets", "set", f"gpg://{host.state}/secrets.gpg#db", stdin=-1)
    process.communicate(OLD.encode(), timeout=60)
    assert process.returncode == 0
    return Scene(host, outside, place / "ballast")


def require_told(answer: Answer, command: str) -> None:
    """What is full, and how to go on."""
    assert answer.code in (1, 21, 31), answer
    assert "is full" in answer.err or "no space left" in answer.err, answer
    assert "Traceback" not in answer.err
    assert "disk i/o error" not in answer.err
    assert command in answer.err, answer


def struck(scene: Scene, verb: str, when: str, leave: int, *, slots: str) -> str:
    """One rotation whose disk becomes full at that point, and is given room; what was told."""
    scene.plan(verb, when, leave)
    answer = scene.host.run("rotate", "run", "db", "--emergency")
    assert scene.ballast.exists(), "it never came to that point"
    if answer.code == 0:  # what was left was enough
        scene.ballast.unlink()
        told = "nobody"
    else:
        if slots == "two":
            assert scene.is_accepted(scene.used), "the consumer is locked out"
        told = (
            "journal" if "cannot use the journal" in answer.err else "audit log" if "audit log" in answer.err else "gpg"
        )
        mended(scene, answer)
    assert scene.used != OLD
    assert scene.is_accepted(scene.used)
    assert not scene.is_accepted(OLD)
    assert scene.host.run("secrets", "get", "-n", f"gpg://{scene.host.state}/secrets.gpg#db").out == scene.used
    assert scene.host.run("audit", "verify").code in (0, 3)  # 3: a record that was torn by the full disk is told
    return told


def mended(scene: Scene, answer: Answer) -> None:
    """Do as was told: while the disk is full, which is told again, and with room again."""
    command = ("rotate", "resume", "db") if "opskit rotate resume db" in answer.err else ("rotate", "run", "db")
    require_told(answer, "opskit rotate resume db" if command[1] == "resume" else "run the command again")
    again = scene.host.run(*command)
    if again.code:
        require_told(again, "opskit rotate resume" if command[1] == "resume" else "")
    scene.ballast.unlink()
    ended = scene.host.run(*command) if again.code else again
    assert ended.code == 0, (answer, again, ended)
    if "OLD_DELETED" not in ended.err:  # `resume` waits for the time that an emergency does not
        assert scene.host.run("rotate", "retire", "db", "--now").code == 0


def campaign(template: Machine, folder: Path, points: list[tuple[str, str, int]], slots: str) -> str:
    found: dict[str, int] = {}
    for number, (verb, when, leave) in enumerate(points):
        (folder / f"{number}").mkdir()
        with mounted("tmpfs", folder / f"{number}", size=16 * MEBIBYTE) as place:
            made = scene(template, place, folder / f"{number}" / "outside", slots)
            try:
                told = struck(made, verb, when, leave, slots=slots)
            except AssertionError as error:
                error.add_note(f"filled {when} {verb} to {leave} bytes")
                raise
            found[told] = found.get(told, 0) + 1
        shutil.rmtree(folder / f"{number}")
    return f"{len(points)} full disks, told by: {found}"


@pytest.mark.parametrize("slots", ["one", "two"])
def test_a_disk_that_becomes_full(template: Machine, tmp_path: Path, slots: str, tell: Tell) -> None:
    """Full at some point, it says so and what to do; with room again `resume` ends where the consumer's value works."""
    points = [(*point, LEAVES[number % len(LEAVES)]) for number, point in enumerate(POINTS)]
    tell(campaign(template, tmp_path, points[slots == "two" :: 9], slots))


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("slots", ["one", "two"])
def test_a_disk_that_becomes_full_often(template: Machine, tmp_path: Path, slots: str, tell: Tell) -> None:
    """The same with every point and every remainder."""
    tell(campaign(template, tmp_path, [(*point, leave) for point in POINTS for leave in LEAVES], slots))

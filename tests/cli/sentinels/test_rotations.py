"""Rotations of every kind, well and badly, by the real command line: nothing of any secret is seen anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cli.hosts import Answer, Machine
from tests.cli.sentinels.places import PLACES, Place
from tests.cli.sentinels.stage import Stage
from tests.cli.sentinels.targets import TARGETS, Target

STORES = {
    "command": "gpg",
    "postgresql": "vault",
    "postgresql-alternating": "keyring",
    "mariadb": "dotenv",
    "mysql": "dotenv",
    "redis": "keyring",
    "aws_iam": "aws-sm",
    "ssh": "vault",
    "tls": "keyring",
    "backup_key": "gpg",
}
"""Where the secret of each kind lies: each store has one."""
SQL = {"postgresql", "postgresql-alternating", "mariadb", "mysql"}
BAD = range(1, 256)


@dataclass
class Story:
    """A host with rotations of several kinds, each named after it."""

    stage: Stage
    targets: dict[str, Target] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    """Kinds whose servers are not installed, and why they could not be had."""

    def rotate(self, *words: str, codes: Container[int] = (0,), **environ: str) -> Answer:
        """A command with its debug log and tracebacks."""
        answer = self.stage.run("--debug", "rotate", *words, **environ)
        assert answer.code in codes, answer.err
        return answer

    def under_way(self) -> set[str]:
        """The rotations that have begun and not ended."""
        found = json.loads(self.rotate("status", "--json", codes=range(4)).data)
        last = {each["name"]: each["last"] for each in found}
        return {name for name, each in last.items() if each and each["state"] not in ("ROLLED_BACK", "OLD_DELETED")}

    def leaks(self) -> list[str]:
        """Of all values that ever were in the stores; each target's first one and two new ones at least."""
        found = [(name, value) for name, place in self.places.items() for value in set(place.values())]
        assert len(found) >= 3 * len(self.targets)
        for number, (name, value) in enumerate(found):
            self.stage.secrets.add(f"value {number} in {name}", value)
        return self.stage.leaks()


@contextmanager
def told(machine: Machine, stores: Mapping[str, str], **more: Any) -> Iterator[Story]:
    """A story's beginning: servers and `stores` by kind are there, secrets are set, the journal is held open."""
    story = Story(Stage(machine))
    entries = {}
    with ExitStack() as stack:
        for store in dict.fromkeys(stores.values()):
            story.places[store] = place = stack.enter_context(PLACES[store](story.stage))
            story.stage.environ |= place.environ
        for kind, store in stores.items():
            try:
                target = stack.enter_context(TARGETS[kind](story.stage))
            except pytest.skip.Exception as absent:
                story.absent.append(f"{kind}: {absent.msg}")
                continue
            story.targets[kind] = target
            story.stage.environ |= target.environ
            entries[kind] = entry(story, kind, story.places[store]) | more
        machine.config.write_text(f"{machine.config.read_text()}\nrotations: {json.dumps(entries)}\n")
        for kind, target in story.targets.items():
            story.stage.secrets.add(f"first value of {kind}", target.first)
            answer = story.stage.run("--debug", "secrets", "set", entries[kind]["secret"], stdin=target.first + b"\n")
            assert answer.code == 0, answer.err
        story.rotate("plan")
        stack.enter_context(story.stage.journal_held())
        yield story


def entry(story: Story, kind: str, place: Place) -> dict[str, Any]:
    """A rotation with a consumer, whose programs write what they find: its check fails where a file `broken` lies."""
    target, folder = story.targets[kind], story.stage.machine.folder
    file = folder / f"{kind}.conf"
    file.touch(0o600)
    story.stage.private.append(file)
    app: dict[str, Any] = {
        "files": {str(file): "{value}"},
        "reload": ["sh", "-c", f"cat {file} >&2"],
        "check": ["sh", "-c", f"test ! -e {folder}/broken || {{ cat {file} >&2; base64 {file}; exit 1; }}"],
    }
    consumers = {"app": app}
    if kind == "command":
        consumers["copy"] = {"secrets": [story.places["keyring"].reference("copy")]}
    secret = place.reference(kind.replace("-", "_"))
    return {"secret": secret, "propagation": "1s", target.kind: target.entry, "consumers": consumers}


@pytest.mark.parametrize("kinds", [SQL, set(TARGETS) - SQL], ids=["SQL", "others"])
def test_rotations_show_nothing(machine: Machine, kinds: set[str], tell: Callable[[str], None]) -> None:
    """Planned, refused, run, undone, run again, ended: of each kind no secret in any place that a stranger sees."""
    with told(machine, {kind: STORES[kind] for kind in sorted(kinds)}) as story:
        for kind in story.targets:
            story.targets[kind].refuses()
            story.rotate("run", kind, codes=BAD)
            story.targets[kind].accepts()
        story.rotate("resume", codes=range(4))
        story.rotate("run", *(set(story.targets) - story.under_way()))
        for kind in list(story.targets)[::2]:
            story.rotate("undo", kind)
        story.rotate("run", *(set(story.targets) - story.under_way()), "--json", OPSKIT_LOG="json")
        story.rotate("status")
        story.rotate("retire", *story.targets, "--now")
        assert story.leaks() == []
        assert story.stage.strays() == []
        for kind in story.targets:
            assert story.stage.places_of(kind.encode()) >= {"stdout", "stderr", "argv", "audit", "journal"}
    for each in story.absent:
        tell(f"not searched, {each}")

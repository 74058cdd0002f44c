"""What was asked of `opskit init`, and whether it can be meant: judged before anything is made.

Nothing here is written; what the file system says about the places that were named is module `places`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opskit import wiring
from opskit.config import load as configs
from opskit.config.model import Config, PathsSource, Source
from opskit.config.terms import LABEL_PATTERN, MEANINGS
from opskit.errors import ConfigError, NoKey, UsageError
from opskit.locations import destination_at, is_same_place, place
from opskit.operations.initialise import LOST_STATE_HINT
from opskit.repository.identity import read_repository
from opskit.setup.places import require_new_file


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for; all of it optional when a config exists."""

    state_dir: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    destinations: Mapping[str, str] = field(default_factory=dict)
    recipients: tuple[str, ...] = ()
    new_recipient: str | None = None
    recovery_key: Path | None = None


def judge(wishes: Wishes, known: Config | None) -> None:
    """Raise UsageError or NoKey where the wishes, or they and the config that is there, cannot be meant."""
    if wishes.new_recipient and wishes.recovery_key is None:
        raise UsageError("--new-recipient needs --recovery-key FILE: where shall the private half go?")
    if wishes.new_recipient is not None and not (wishes.new_recipient.isprintable() and wishes.new_recipient.strip()):
        raise UsageError("--new-recipient: expected one line, such as 'Name <mail@example.org>'")
    if wishes.new_recipient and wishes.recovery_key is not None:
        require_new_file(wishes.recovery_key)
    if known is None and not (wishes.recipients or wishes.new_recipient):
        raise UsageError("nobody could restore: expected --recipient or --new-recipient")
    if known is None and not wishes.destinations:
        raise UsageError("there is nowhere to back up to: expected --destination NAME=PATH")
    if known is not None:
        _judge_beside(wishes, known)


def _judge_beside(wishes: Wishes, known: Config) -> None:
    if wishes.recipients or wishes.new_recipient:
        raise UsageError(
            "the config exists, and init does not change who can restore", hint="opskit keys add, remove and rotate do"
        )
    if wishes.state_dir not in (None, known.state_dir):
        raise UsageError(f"the config says state_dir {known.state_dir}, got --state-dir {wishes.state_dir}")
    if known.keys.host is not None and read_repository(known.state_dir) is None:
        raise NoKey(
            f"the config names the host key {known.keys.host}, but {known.state_dir} holds no state of a host",
            hint=LOST_STATE_HINT,
        )
    for name, text in wishes.sources.items():
        known_source = known.sources.get(name)
        if known_source is not None and not _is_same_source(known_source, name, text):
            raise UsageError(
                f"--source {name}: the config says {_described(known_source)}, got {text}",
                hint="edit the source in the config, or choose another name",
            )
    for name, text in wishes.destinations.items():
        there = known.destinations.get(name)
        if there is not None and not is_same_place(there, f"--destination {name}", text):
            raise UsageError(
                f"--destination {name}: the config says {wiring.location_of(there)}, got {text}",
                hint="edit the path in the config, or choose another name",
            )


def _is_same_source(there: Source, name: str, text: str) -> bool:
    """Whether what the config says of a source and what was typed are one path."""
    typed = Path(os.path.normpath(place(f"--source {name}", text)))
    return isinstance(there, PathsSource) and there.paths == (typed,)


def _described(source: Source) -> str:
    return ", ".join(map(str, source.paths)) if isinstance(source, PathsSource) else f"a {source.kind} source"


def draft_of(path: Path, wishes: Wishes, known: Config | None) -> Config:
    """The config to be, checked as if it had been read from a file (without recipients yet)."""
    base: dict[str, Any] = {"version": 1, "sources": {}, "destinations": {}, "keys": {"recipients": ["0" * 40]}}
    if known is not None:
        base = json.loads(known.as_given())
    elif wishes.state_dir is not None:
        base["state_dir"] = str(place("--state-dir", str(wishes.state_dir)))
    for name, text in wishes.sources.items():
        _require_label("--source", name)
        base["sources"].setdefault(name, {"paths": [str(place(f"--source {name}", text))]})
    for name, text in wishes.destinations.items():
        _require_label("--destination", name)
        base["destinations"].setdefault(name, destination_at(f"--destination {name}", text))
    try:
        return configs.parse(json.dumps(base), "draft", path.absolute().parent)
    except ConfigError as error:
        # Lines and columns of the draft mean nothing to a person: the option does.
        raise UsageError("\n".join(map(_as_option, str(error).splitlines()))) from None


def _require_label(option: str, name: str) -> None:
    if not re.fullmatch(LABEL_PATTERN, name):
        raise UsageError(f"{option}: not a name, expected {MEANINGS[LABEL_PATTERN]}, got {name!r}")


def _as_option(line: str) -> str:
    text = re.sub(r"^draft:\d+:\d+: ", "", line)
    text = re.sub(r"^(source|destination)s\.([a-z0-9_-]+)\.paths?(\[0\])?: ", r"--\1 \2: ", text)
    return re.sub(r"^state_dir: ", "--state-dir: ", text)

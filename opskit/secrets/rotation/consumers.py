"""Consumers of a secret: the files and stores that they read it from, how they are made to read it, how they prove it.

A file holds a text of the config with the parts of the value put in (`postgresql://{username}:{password}@db1/app`), or
the value itself. It is replaced as a whole, mode and owner stay; one that is made is for its owner alone. What is
there already is not written again, but reloaded all the same: a run that was killed may have come just so far.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from opskit.errors import OpskitError, TargetError
from opskit.secrets.base import SecretStore, Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.commands import Programs
from opskit.secrets.setting import set_secret, value_in

VALUE = "value"
"""The placeholder for the whole of a value."""
_PART = re.compile(r"\{([a-z_]+)(:url)?\}")
_LARGEST = 1024 * 1024


class Place(Protocol):
    """Where a consumer reads a secret."""

    @property
    def where(self) -> str:
        """What people call it."""
        ...

    def write(self, secret: Secret) -> None:
        """Put the value there. Raises OpskitError."""
        ...

    def holds(self, secret: Secret) -> bool:
        """Whether it is there. Raises OpskitError where that cannot be read."""
        ...


@dataclass(frozen=True)
class FilePlace:
    """A file; `write_file` replaces it durably. `text` has placeholders; {password:url} quotes it for URLs."""

    path: Path
    write_file: Callable[[Path, bytes], None]
    text: str = "{value}"

    @property
    def where(self) -> str:
        return str(self.path)

    def write(self, secret: Secret) -> None:
        self.write_file(self.path, rendered(self.text, secret))

    def holds(self, secret: Secret) -> bool:
        wanted = rendered(self.text, secret)
        try:
            with open(self.path, "rb", opener=_opened) as file:
                return file.read(_LARGEST) == wanted
        except FileNotFoundError:
            if not self.path.parent.is_dir():
                raise TargetError(
                    f"cannot write {self.path}: its folder is not there", hint="make it, mount it or correct the path"
                ) from None
            return False
        except OSError as error:
            raise TargetError(f"cannot read {self.path}: {(error.strerror or 'error').lower()}") from error


@dataclass(frozen=True)
class StorePlace:
    """A secret of another store, or of the same."""

    reference: Reference
    store: SecretStore
    text: str = "{value}"

    @property
    def where(self) -> str:
        return str(self.reference)

    def write(self, secret: Secret) -> None:
        set_secret(self.store, self.reference, Secret(rendered(self.text, secret)))

    def holds(self, secret: Secret) -> bool:
        found = value_in(self.store, self.reference, Stage.CURRENT)
        return found is not None and found.reveal_bytes() == rendered(self.text, secret)


@dataclass(frozen=True)
class CommandConsumer:
    """A consumer of the config: places that are written, commands that make it read them and that judge it."""

    name: str
    places: Sequence[Place]
    programs: Programs
    reload: Sequence[str] | None = None
    check: Sequence[str] | None = None
    timeout: float = 60.0

    def deliver(self, secret: Secret) -> None:
        for place in self.places:
            if not place.holds(secret):
                place.write(secret)
        if self.reload is not None:
            # Not tied to our lock: what a reload starts may stay.
            answer = self.programs.run(self.reload, None, timeout=self.timeout, tied=False)
            if not answer.is_good:
                raise TargetError(f"{self.name} was not reloaded: {answer}")

    def lacking(self, secret: Secret) -> list[str]:
        return [place.where for place in self.places if not place.holds(secret)]

    def fault(self) -> str | None:
        if self.check is None:
            return None
        try:
            answer = self.programs.run(self.check, None, timeout=self.timeout)
        except OpskitError as error:
            return str(error)
        return None if answer.is_good else str(answer)


def _opened(path: str, flags: int) -> int:
    found = os.open(path, flags | os.O_NONBLOCK)  # a FIFO must not be waited for
    if stat.S_ISFIFO(os.fstat(found).st_mode):
        os.close(found)
        raise TargetError(f"cannot read {path}: it is a FIFO, expected a file")
    return found


def rendered(text: str, secret: Secret) -> bytes:
    """A text with the parts of a value in it; raises TargetError where the value has no such part."""
    if text == f"{{{VALUE}}}":
        return secret.reveal_bytes()
    parts = _parts(secret)

    def part(found: re.Match[str]) -> str:
        if found[1] not in parts:
            known = ", ".join(sorted(parts))
            raise TargetError(f"a consumer's text asks for {{{found[1]}}}: the value has {known}") from None
        return quote(parts[found[1]], safe="") if found[2] else parts[found[1]]

    return _PART.sub(part, text).encode()


def _parts(secret: Secret) -> dict[str, str]:
    """The parts of a value by name: itself, and those of a JSON object of strings."""
    try:
        found = json.loads(secret.reveal_bytes())
    except ValueError:  # UnicodeDecodeError among them
        found = None
    parts = {name: each for name, each in found.items() if isinstance(each, str)} if isinstance(found, dict) else {}
    return {**parts, VALUE: secret.reveal()}

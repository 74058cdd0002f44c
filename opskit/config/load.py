"""Find a config file, read it, and make a Config of it.

A file that others could change is refused when root reads it, for it holds commands. What a file says is judged once
(`judging`); a caller that names a folder to keep the answer in has it at hand the next time, for the same bytes at the
same place (`kept`), and neither pydantic nor yaml is loaded then: that was half of all that a small backup did.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from opskit.config.build import build
from opskit.config.kept import Kept
from opskit.config.model import Config
from opskit.errors import ConfigError
from opskit.secrets.reference import BUILT_IN_SCHEMES

MAX_BYTES = 1024 * 1024
SYSTEM_CONFIG = Path("/etc/opskit/opskit.yaml")


def find_config(
    explicit: Path | None, environ: Mapping[str, str], cwd: Path, home: Path, system: Path | None = None
) -> Path:
    """The config file to use: `explicit`, else $OPSKIT_CONFIG, ./opskit.yaml, ~/.config/opskit/opskit.yaml, /etc.

    Whoever names a file gets that file or an error, never another one. Raises ConfigError when there is none.
    """
    named = environ.get("OPSKIT_CONFIG")
    if explicit is not None or named:
        return cwd / (explicit or str(named))  # absent or unreadable: `load` says so
    places = [cwd / "opskit.yaml", home / ".config" / "opskit" / "opskit.yaml", system or SYSTEM_CONFIG]
    for place in places:
        if os.path.lexists(place):
            return place
    raise ConfigError(
        f"no config file: expected one of {', '.join(map(str, places))}",
        hint="`opskit init` makes one; --config FILE or $OPSKIT_CONFIG names another",
    )


def load(path: Path, schemes: Collection[str] = BUILT_IN_SCHEMES, *, keep: Path | None = None) -> Config:
    """Read the config file at `path`; secret references may use `schemes`. Raises ConfigError.

    `keep` is a private folder for what was judged good (see `kept.folder`); without it the file is judged every time.
    """
    try:
        content = _content(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(
            f"{path}: cannot be read: {(reason or 'error').lower()}",
            hint="`opskit init` makes a config; --config FILE names another",
        ) from error
    if keep is None:
        return _judged(content, path, schemes)
    kept = Kept(keep, Path(os.path.abspath(path)), content, schemes)
    values = kept.read()
    if values is not None:
        return build(values)
    config = _judged(content, path, schemes)
    kept.write(config.given)
    return config


def parse(text: str, filename: str, base: Path, schemes: Collection[str] = BUILT_IN_SCHEMES) -> Config:
    """Turn YAML into a Config; `filename` is for messages, relative paths start at `base`. Raises ConfigError."""
    from opskit.config import judging  # here: loads pydantic

    return judging.parse(text, filename, base, schemes)


def _judged(content: bytes, path: Path, schemes: Collection[str]) -> Config:
    from opskit.config import judging  # here: loads pydantic

    text = judging.decoded(content, str(path))
    return judging.parse(text, str(path), Path(os.path.abspath(path)).parent, schemes)


def _content(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _refuse_unsafe(path, os.fstat(descriptor))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: too large: expected at most 1 MiB")
    return content


def _refuse_unsafe(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "something else"
        raise ConfigError(f"{path}: not a config file: expected a regular file, got {found}")
    if os.geteuid() != 0:
        return
    # A config holds commands: whoever can write it commands root.
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(
            f"{path}: others may change the commands root runs: expected mode 0644 or less, got {mode:04o}",
            hint=f"chmod go-w {path}",
        )
    if status.st_uid != 0:
        raise ConfigError(
            f"{path}: its owner could make root run commands: expected owner root, got uid {status.st_uid}",
            hint=f"chown root {path}",
        )

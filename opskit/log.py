"""The one logging set-up: levels, text for people or JSON lines for machines, and no secret in either.

Modules write `log = logger(__name__)` and `log.debug("pack stored", pack=name, bytes=size)`; the event is a constant,
what varies is a field. The defaults show warnings and errors on stderr; `configure` changes that.

Invariants: every line passes `redact`, which removes each value given to `register_secret`; control characters never
reach a terminal raw. Below the level a call costs one comparison: structlog (0.1 s to import) loads with the first line
that is really written. It deliberately keeps no history and writes no files: journald and the daemon's owner do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["debug", "info", "warning", "error"]
_RANK: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
REDACTED = "[secret]"
# Shorter values appear inside innocent words; replacing those would destroy the log and hide nothing.
SHORTEST_REDACTED = 6


def _to_stderr(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


@dataclass
class _Settings:
    threshold: int = _RANK["warning"]
    as_json: bool = False
    write: Callable[[str], None] = _to_stderr
    secrets: set[str] = field(default_factory=set)
    pipeline: Any = None


_settings = _Settings()


def configure(level: Level = "warning", *, as_json: bool = False, write: Callable[[str], None] = _to_stderr) -> None:
    """Show lines of `level` and above, through `write`, which gets one line without its end."""
    _settings.threshold = _RANK[level]
    _settings.as_json = as_json
    _settings.write = write
    _settings.pipeline = None


def set_level(level: Level) -> None:
    """Change the level alone."""
    _settings.threshold = _RANK[level]


def register_secret(value: str | bytes) -> None:
    """Never show `value` in a line of the log or in an error message, however it was quoted.

    Values of less than SHORTEST_REDACTED characters are not kept.
    """
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    if len(text) >= SHORTEST_REDACTED:
        import json  # here: only those who hold secrets pay for it

        _settings.secrets.update({text, repr(text)[1:-1], json.dumps(text)[1:-1]})


def redact(text: str) -> str:
    """The text with every registered secret replaced."""
    # The longest first: one secret may contain another.
    for secret in sorted(_settings.secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text


class Logger:
    """Writes events of one module. Fields are shown with `str`, or as they are where JSON has the type."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, /, **fields: object) -> None:
        """What only someone looking for a fault wants to read."""
        self._emit("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """What a daemon did."""
        self._emit("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """What somebody should look at some day."""
        self._emit("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """What went wrong."""
        self._emit("error", event, fields)

    def _emit(self, level: Level, event: str, fields: dict[str, object]) -> None:
        if _RANK[level] < _settings.threshold:
            return
        if _settings.pipeline is None:
            _settings.pipeline = _pipeline(_settings.as_json)
        getattr(_settings.pipeline, level)(event, logger=self._name, **fields)


def logger(name: str) -> Logger:
    """The logger of a module; `name` is its `__name__`."""
    return Logger(name)


class _Sink:
    """What structlog calls a logger: takes finished lines, at any level."""

    def _write(self, line: str) -> None:
        _settings.write(line)

    debug = info = warning = error = _write


def _pipeline(as_json: bool) -> Any:
    import structlog  # here: 0.1 s that a silent run does not pay

    render: Any = structlog.processors.JSONRenderer() if as_json else _as_text
    return structlog.wrap_logger(
        _Sink(),
        wrapper_class=structlog.BoundLogger,
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _plain,
            render,
            _redacted,
        ],
    )


def _redacted(_logger: object, _method: str, line: Any) -> str:
    """Once more on the finished line: a secret may only come together here."""
    return redact(line)


def _plain(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Turn values into types of JSON, without secrets: in text they are found before quoting hides them."""
    return {key: _plain_value(value) for key, value in event.items()}


def _plain_value(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain_value(item) for item in value]
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return redact(text)


def _as_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """`opskit: warning: event key=value`; the time and module only for those who debug."""
    level, event_name = event.pop("level"), event.pop("event")
    timestamp, name = event.pop("timestamp"), event.pop("logger")
    where = f"{timestamp[11:23]} {name}: " if _settings.threshold <= _RANK["debug"] else ""
    exception = event.pop("exception", None)
    fields = "".join(f" {key}={_field(value)}" for key, value in event.items())
    trace = f"\n{exception}" if exception else ""
    return f"opskit: {level}: {where}{event_name}{fields}{trace}"


def _field(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and text and not set(" ='\"") & set(text) else repr(text)

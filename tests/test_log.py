"""The log: levels, forms, and secrets that never appear."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit import log

SECRET = 'pa"ss\\wörd\n1'


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No registered secrets, and the defaults again afterwards."""
    monkeypatch.setattr(log._settings, "secrets", set())
    yield
    log.configure()


def written(level: log.Level, *, as_json: bool) -> list[str]:
    lines: list[str] = []
    log.configure(level, as_json=as_json, write=lines.append)
    return lines


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels(level: log.Level, count: int) -> None:
    """A level shows itself and what is more serious."""
    lines = written(level, as_json=False)
    logger = log.logger("test")
    for write in (logger.debug, logger.info, logger.warning, logger.error):
        write("event")
    assert len(lines) == count


def test_text_is_one_line_with_its_fields() -> None:
    """A warning reads like every message of opskit, and a value with spaces or control characters is quoted."""
    lines = written("warning", as_json=False)
    log.logger("test").warning("slow disk", path="a b\x1b[2J", seconds=3)
    assert lines == ["opskit: warning: slow disk path='a b\\x1b[2J' seconds=3"]


def test_debug_tells_time_and_module() -> None:
    """Whoever looks for a fault sees when and where."""
    lines = written("debug", as_json=False)
    log.logger("opskit.x").debug("stored", pack="ab")
    assert lines[0].startswith("opskit: debug: ") and lines[0].endswith(" opskit.x: stored pack=ab")


def test_json_lines() -> None:
    """With JSON each line is one object with level, time, module, event and typed fields."""
    lines = written("info", as_json=True)
    log.logger("test").info("stored", bytes=3, names=("a", "b"), path=b"\xff", done=True, nothing=None)
    found = json.loads(lines[0])
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "level": "info",
        "logger": "test",
        "event": "stored",
        "bytes": 3,
        "names": ["a", "b"],
        "path": "\\xff",
        "done": True,
        "nothing": None,
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_registered_secrets_are_cut_out(as_json: bool) -> None:
    """A secret is found in events, fields, nested values, bytes and exceptions, however it is quoted."""
    lines = written("debug", as_json=as_json)
    log.register_secret(SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        log.logger("test").error(
            f"event {SECRET}",
            one=SECRET,
            two={"three": [SECRET]},
            four=SECRET.encode(),
            exc_info=error,
            five=repr(SECRET),
        )
    text = "".join(lines)
    assert "[secret]" in text
    assert not any(
        form in text for form in (SECRET, repr(SECRET)[1:-1], json.dumps(SECRET)[1:-1], "wörd", "w\\u00f6rd")
    )


@given(st.text(min_size=log.SHORTEST_REDACTED), st.text(), st.text())
def test_redaction_is_complete(secret: str, before: str, after: str) -> None:
    """Whatever surrounds a registered secret, the redacted text does not contain it."""
    log._settings.secrets.clear()
    log.register_secret(secret)
    if secret not in log.REDACTED:
        assert log.redact(before + secret + after).count(secret) <= (before + log.REDACTED + after).count(secret)


def test_the_longer_of_two_secrets_goes_first() -> None:
    """A secret that contains another leaves no remainder."""
    log.register_secret("abcdef")
    log.register_secret("abcdefghij")
    assert log.redact("abcdefghij abcdef") == "[secret] [secret]"


def test_short_values_are_left_alone() -> None:
    """A value too short to tell from ordinary text does not shred the log."""
    log.register_secret("a")
    assert log.redact("a plan") == "a plan"

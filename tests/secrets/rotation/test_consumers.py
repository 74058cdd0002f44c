"""What consumers are given: files and stores with the parts of a value, reloads, checks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from opskit.errors import SecretStoreError, TargetError, UnresolvedReference
from opskit.repository.durable import write_durably
from opskit.secrets.base import Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.base import document
from opskit.secrets.rotation.commands import Programs
from opskit.secrets.rotation.consumers import CommandConsumer, FilePlace, Place, StorePlace, rendered
from opskit.secrets.stores.dotenv import DotenvStore, FileTools

PLAIN = Secret("p/w:d@#?")
PARTS = document({"username": "app b", "password": "p/w:d@#?", "value": "not me"})
URL = "postgresql://{username:url}:{password:url}@db1/app"


@pytest.mark.parametrize(
    ("text", "secret", "expected"),
    [
        ("{value}", PLAIN, b"p/w:d@#?"),
        ("{value}", Secret(b"\0\xff\n"), b"\0\xff\n"),
        ("{value}", PARTS, PARTS.reveal_bytes()),
        ("PASSWORD={value}\n", PLAIN, b"PASSWORD=p/w:d@#?\n"),
        ("x={value}", PARTS, b"x=" + PARTS.reveal_bytes()),
        ("{value:url}", PLAIN, b"p%2Fw%3Ad%40%23%3F"),
        (URL, PARTS, b"postgresql://app%20b:p%2Fw%3Ad%40%23%3F@db1/app"),
        ('{"user": "{username}", "x": {}}', PARTS, b'{"user": "app b", "x": {}}'),
        ("{username}{username}", document({"username": "{password}", "password": "x"}), b"{password}{password}"),
        ("\u00e4 {value}", Secret("\u6f22"), "\u00e4 \u6f22".encode()),
    ],
)
def test_rendering(text: str, secret: Secret, expected: bytes) -> None:
    """Parts stand where the text has their names, quoted for URLs where asked; all else is as it was."""
    assert rendered(text, secret) == expected


@pytest.mark.parametrize("secret", [PLAIN, Secret("[1]"), document({"username": "a"}), Secret('{"password": 1}')])
def test_a_part_that_is_missing(secret: Secret) -> None:
    """It is told by its name, with the names that there are and no value."""
    with pytest.raises(TargetError, match=r"asks for \{password\}: the value has (username, )?value$") as caught:
        rendered("{password}", secret)
    assert caught.value.__suppress_context__


def test_a_value_that_is_no_text() -> None:
    """Bytes that are no text cannot stand in one."""
    with pytest.raises(UnresolvedReference, match="expected UTF-8"):
        rendered("x={value}", Secret(b"\xff"))


def _replace(path: Path, data: bytes) -> None:
    write_durably(path, data, like_before=True)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    """A file is replaced whole, its mode stays; one that is made is for its owner alone."""
    place = FilePlace(tmp_path / "env", _replace, "KEY={value}")
    place.write(PLAIN)
    assert _mode(tmp_path / "env") == 0o600
    (tmp_path / "env").chmod(0o640)
    before = (tmp_path / "env").stat().st_ino
    place.write(Secret("other"))
    assert (tmp_path / "env").read_bytes() == b"KEY=other"
    assert _mode(tmp_path / "env") == 0o640
    assert (tmp_path / "env").stat().st_ino != before
    assert [each.name for each in tmp_path.iterdir()] == ["env"]


def test_what_a_file_holds(tmp_path: Path) -> None:
    """It holds exactly what would be written, or it does not; one that cannot be read is an error."""
    place = FilePlace(tmp_path / "env", _replace, "KEY={value}")
    assert not place.holds(PLAIN)
    place.write(PLAIN)
    assert place.holds(PLAIN)
    with (tmp_path / "env").open("ab") as file:
        file.write(b"\n")
    assert not place.holds(PLAIN)
    os.unlink(tmp_path / "env")
    (tmp_path / "env").mkdir()
    with pytest.raises(TargetError, match=r"cannot read .*env: is a directory"):
        place.holds(PLAIN)
    (tmp_path / "env").rmdir()
    os.mkfifo(tmp_path / "env")
    with pytest.raises(TargetError, match="it is a FIFO"):
        place.holds(PLAIN)


def _dotenv() -> DotenvStore:
    return DotenvStore(FileTools(write_durably, nullcontext))


def test_a_secret_of_another_store(tmp_path: Path) -> None:
    """It becomes the current value there, rendered; the one before is the previous one."""
    store, reference = _dotenv(), Reference("dotenv", str(tmp_path / ".env"), "URL")
    place = StorePlace(reference, store, URL)
    assert not place.holds(PARTS)
    place.write(PARTS)
    assert place.holds(PARTS)
    assert store.get(reference, Stage.CURRENT).reveal_bytes() == rendered(URL, PARTS)
    other = document({"username": "b", "password": "c"})
    place.write(other)
    assert (place.holds(other), place.holds(PARTS)) == (True, False)
    assert store.get(reference, Stage.PREVIOUS).reveal_bytes() == rendered(URL, PARTS)


def test_a_pending_value_in_another_store(tmp_path: Path) -> None:
    """A rotation of that secret itself is not disturbed."""
    store, reference = _dotenv(), Reference("dotenv", str(tmp_path / ".env"), "URL")
    store.set(reference, Stage.PENDING, Secret("of another rotation"))
    with pytest.raises(SecretStoreError, match="has a pending value"):
        StorePlace(reference, store).write(Secret("new"))


@pytest.fixture
def consumer(tmp_path: Path) -> Callable[..., CommandConsumer]:
    """Makes one with a file, whose commands are shell scripts."""
    place: Place = FilePlace(tmp_path / "env", _replace)
    programs = Programs({"PATH": "/usr/bin:/bin", "BASE": str(tmp_path)})

    def make(reload: str | None = None, check: str | None = None, timeout: float = 20.0) -> CommandConsumer:
        commands = [None if text is None else ("sh", "-c", text) for text in (reload, check)]
        return CommandConsumer("app", [place], programs, commands[0], commands[1], timeout)

    return make


def test_deliver_writes_then_reloads(consumer: Callable[..., CommandConsumer], tmp_path: Path) -> None:
    """The service reads what was just written; a repetition writes nothing, and reloads all the same."""
    app = consumer('cat "$BASE/env" >> "$BASE/read"')
    app.deliver(PLAIN)
    before = (tmp_path / "env").stat().st_ino
    app.deliver(PLAIN)
    assert (tmp_path / "read").read_bytes() == 2 * PLAIN.reveal_bytes()
    assert (tmp_path / "env").stat().st_ino == before
    assert app.lacking(PLAIN) == []
    assert app.lacking(Secret("other"))


def test_what_a_reload_starts_holds_no_lock(tmp_path: Path) -> None:
    """A service that a reload starts may stay; a check is over when it ends."""
    tie = os.open(tmp_path, os.O_RDONLY)
    try:
        look = ("sh", "-c", f"[ ! -e /proc/$$/fd/{tie} ]")
        app = CommandConsumer("app", [], Programs({"PATH": "/usr/bin:/bin"}, tie=tie), look, look)
        app.deliver(PLAIN)
        assert "status 1" in str(app.fault())
    finally:
        os.close(tie)


def test_a_reload_that_fails(consumer: Callable[..., CommandConsumer]) -> None:
    """It is an error that names the consumer and the reason."""
    with pytest.raises(TargetError, match="app was not reloaded: sh ended with status 3: no such unit"):
        consumer("echo no such unit >&2; exit 3").deliver(PLAIN)
    with pytest.raises(TargetError, match="app was not reloaded: sh did not end in time"):
        consumer("sleep 60", timeout=0.2).deliver(PLAIN)


def test_a_check(consumer: Callable[..., CommandConsumer]) -> None:
    """Only a check that ends well says that a consumer works; without one there is no fault."""
    assert consumer().fault() is None
    assert consumer(check="true").fault() is None
    assert consumer(check="echo login refused; exit 1").fault() == "sh ended with status 1: login refused"
    assert consumer(check="sleep 60", timeout=0.2).fault() == "sh did not end in time, and was killed"


def test_a_check_that_is_not_there(tmp_path: Path) -> None:
    """A check that cannot be run proves nothing: it is a fault."""
    app = CommandConsumer("app", [], Programs({}), check=(str(tmp_path / "check"),))
    assert str(app.fault()).endswith("no such file or directory")


def test_several_places(tmp_path: Path) -> None:
    """A consumer holds a value where all its places do."""
    places = [FilePlace(tmp_path / name, _replace) for name in ("a", "b")]
    app = CommandConsumer("app", places, Programs({}))
    app.deliver(PLAIN)
    assert app.lacking(PLAIN) == []
    places[1].write(Secret("other"))
    assert app.lacking(PLAIN) == [str(tmp_path / "b")]

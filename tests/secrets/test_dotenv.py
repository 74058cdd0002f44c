"""Variables of .env files: what is read, what is refused, and what a change leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import OpskitError, SecretAbsent, SecretStoreError
from opskit.repository.durable import alone, write_durably
from opskit.secrets.base import Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.setting import set_secret
from opskit.secrets.stores.dotenv import DotenvStore, FileTools

STORE = DotenvStore(FileTools(write_durably, alone))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a little of everything."""
    path = tmp_path / ".env"
    path.touch(mode=0o600)
    path.write_text("# note\nA=one\nexport B='two words' # why\nC=\"${A} three\"\nA=last\nthis is no line\nD\n")
    return path


def got(path: Path, name: str) -> str:
    return STORE.get(Reference("dotenv", str(path), name), Stage.CURRENT).reveal()


def test_values_are_read_as_they_stand(path: Path) -> None:
    """The last line that sets a variable counts; quotes go; nothing is put in for other variables."""
    assert [got(path, name) for name in "ABC"] == ["last", "two words", "${A} three"]
    for name in ("D", "E"):
        with pytest.raises(SecretAbsent):
            got(path, name)


def test_what_is_not_changed_stays_as_it_was(path: Path) -> None:
    """Comments, broken lines and other variables keep their bytes; a changed one comes at the end."""
    set_secret(STORE, Reference("dotenv", str(path), "A"), Secret("it's \\new"))
    assert path.read_text() == (
        "# note\nexport B='two words' # why\nC=\"${A} three\"\nthis is no line\nD\n"
        "A='it\\'s \\\\new'\nA__previous='last'\n"
    )
    assert path.stat().st_mode & 0o777 == 0o600


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=60))
def test_what_is_written_others_read_too(value: str) -> None:
    """Any text comes back, by python-dotenv as well; what could not is refused before the file is touched."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ".env"
        reference = Reference("dotenv", str(path), "A")
        try:
            set_secret(STORE, reference, Secret(value))
        except SecretStoreError:
            assert not path.exists()
            return
        assert got(path, "A") == value == dotenv_values(path, interpolate=False)["A"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dotenv:relative#A", "expected dotenv:///path/.env#NAME"),
        ("dotenv:///x/.env", "expected dotenv:///path/.env#NAME"),
        ("dotenv:///x/.env#A-B", "expected dotenv:///path/.env#NAME"),
        ("dotenv:///x/.env#A?raw=1", "unknown option"),
    ],
)
def test_what_is_no_variable(text: str, message: str) -> None:
    """A reference names a file and a variable, no more."""
    with pytest.raises(OpskitError, match=message):
        STORE.get(Reference.parse(text), Stage.CURRENT)


def test_a_file_that_others_read_is_refused(path: Path) -> None:
    """As any file with secrets in it."""
    path.chmod(0o644)
    with pytest.raises(OpskitError, match="expected mode 0600, got 0644"):
        got(path, "A")


def test_bytes_that_are_no_text(path: Path) -> None:
    """A file that is not UTF-8 is a store that fails, and its content is not shown."""
    path.write_bytes(b"A=hunter2\xff\n")
    with pytest.raises(SecretStoreError) as caught:
        got(path, "A")
    assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None

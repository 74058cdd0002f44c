"""Variables of .env files: what is read, what is refused, and what a change leaves alone."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import OpskitError, SecretAbsent, SecretStoreError
from opskit.repository.durable import alone, write_durably
from opskit.secrets.base import Stage
from opskit.secrets.private import MAX_BYTES
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
    """Comments, broken lines, other variables and hidden lines keep their bytes; what is new comes at the end."""
    before = path.read_text()
    set_secret(STORE, Reference("dotenv", str(path), "A"), Secret("new $x"))
    assert path.read_text() == before.replace("A=last", "A='new $x'") + "A__previous=last\n"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("export DB=one\nURL=x-${DB}\n", "export DB='new'\nURL=x-${DB}\nDB__previous=one\n"),
        ("DB=a # first\nDB=b\n", "DB=a # first\nDB='new'\nDB__previous=b\n"),
        ('\n  DB = "a # b" # why\r\nX=1', "\n  DB='new' # why\r\nX=1\nDB__previous=\"a # b\"\n"),
        ("DB='a\nb'\t# why\n", "DB='new'\t# why\nDB__previous='a\nb'\n"),
        ("DB= # none yet\n", "DB='new' # none yet\n"),
        ("DB=a\nexport DB # bare\n", "DB=a\nexport DB='new' # bare\nDB__previous=a\n"),
        ("'DB'='a # b'#c\n", "DB='new'\nDB__previous='a # b'#c\n"),
        ("\ufeffX=1\nDB=it's\n", "\ufeffX=1\nDB='new'\nDB__previous=it's\n"),
    ],
)
def test_a_variable_changes_where_it_stands(text: str, changed: str, path: Path) -> None:
    """The last line that names it takes the new value, with its export and comment; the old one keeps its spelling."""
    path.write_bytes(text.encode())
    set_secret(STORE, Reference("dotenv", str(path), "DB"), Secret("new"))
    assert path.read_bytes().decode() == changed
    values = dotenv_values(path)
    assert values["DB"] == "new" and values.get("URL", "x-new") == "x-new"


LINES = [
    "A=1",
    "export A='x y' # c",
    'A="q\nr"',
    "A",
    "A = # c",
    "B=${A}",
    " B=2#3",
    "# A=1",
    "",
    "this is none",
    "C='\\''",
]


@given(st.lists(st.sampled_from(LINES), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_any_file_keeps_its_other_lines(lines: list[str], end: str) -> None:
    """Whatever is in the file, lines of other variables stay, in their order, and hidden ones too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ".env"
        path.touch(mode=0o600)
        path.write_bytes(end.join(lines).encode())
        STORE.set(Reference("dotenv", str(path), "A"), Stage.CURRENT, Secret("new"))
        assert got(path, "A") == "new" == dotenv_values(path)["A"]
        of_a = [index for index, line in enumerate(lines) if line.removeprefix("export ").startswith("A")]
        after = path.read_bytes().decode().split(end)
        if of_a:
            lines[of_a[-1]] = after[0] if not of_a[-1] else next(each for each in after if "A='new'" in each)
            assert path.read_bytes().decode() == end.join(lines)
        else:
            assert path.read_bytes().decode().startswith(end.join(lines))


def test_a_deleted_variable_stays_deleted(path: Path) -> None:
    """Every line that names it goes, a hidden one too; the others stay."""
    path.write_text("# A=0\nA=one # first\nB=2\n\nexport A='two'\nA\nAB=3")
    STORE.delete(Reference("dotenv", str(path), "A"), Stage.CURRENT)
    assert path.read_text() == "# A=0\nB=2\n\nAB=3"


AWKWARD = st.sampled_from([*"'\\\"\n\r\0$`# {}:-!%\t", "${", "A", "\u2028", "\x0b"])
VALUES = st.lists(AWKWARD | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).map("".join)


@given(VALUES)
def test_what_is_written_others_read_too(value: str) -> None:
    """A value comes back from python-dotenv and from a shell as well; one that could not leaves the file alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ".env"
        reference = Reference("dotenv", str(path), "A")
        try:
            set_secret(STORE, reference, Secret(value))
        except SecretStoreError:
            assert not path.exists()
            assert any(each in value for each in ("'", "\\", "\n", "\r", "\0", "${"))
            return
        assert got(path, "A") == value == dotenv_values(path)["A"] == dotenv_values(path, interpolate=False)["A"]
        shell = subprocess.run(["sh", "-c", f'. {path} && printf %s "$A"'], stdout=subprocess.PIPE, check=True)
        assert shell.stdout.decode() == value


@pytest.mark.parametrize(
    "value", ["ab${HOME}c\\d'e", "it's", "a\\b", "a\rb", "a\nb", "a\0b", "x${HOME}", "${A}", "${B:-c}"]
)
def test_what_programs_read_differently_is_refused(value: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a value is refused before anything is written, whatever our environment, and the message hides it."""
    monkeypatch.setenv("A", "${A}")
    before = path.read_bytes()
    for stage in Stage:
        with pytest.raises(SecretStoreError, match="cannot keep this value") as caught:
            STORE.set(Reference("dotenv", str(path), "A"), stage, Secret(value))
        assert caught.value.exit_code == 31 and "gpg:" in str(caught.value.hint)
        assert value not in f"{caught.value}"
    assert path.read_bytes() == before


def test_a_pending_value_of_somebody_else_is_looked_at(path: Path) -> None:
    """One written by hand that programs would read differently is not made the current one."""
    reference = Reference("dotenv", str(path), "A")
    path.write_text('A=1\nA__pending="${HOME}"\n')
    with pytest.raises(SecretStoreError, match="cannot keep this value"):
        STORE.promote(reference)
    assert path.read_text() == 'A=1\nA__pending="${HOME}"\n'
    path.write_text("A=1\nA__pending=two words\n")
    STORE.promote(reference)
    assert path.read_text() == "A='two words'\nA__previous=1\n"


def test_an_open_quote_is_not_written_after(path: Path) -> None:
    """Where a new line would be swallowed by the one before it, the file is left as it is."""
    path.write_text("B='open")
    with pytest.raises(SecretStoreError, match="left as it is"):
        STORE.set(Reference("dotenv", str(path), "A"), Stage.CURRENT, Secret("hunter2"))
    assert path.read_text() == "B='open"


def test_a_file_never_outgrows_its_reader(path: Path) -> None:
    """The last size that is read can be written; one byte more is refused while the old file stands."""
    reference = Reference("dotenv", str(path), "A")
    path.write_text("B=1\n")
    room = MAX_BYTES - len("B=1\nA=''\n")
    with pytest.raises(SecretStoreError, match=f"at most {MAX_BYTES:,} bytes, got {MAX_BYTES + 1:,}"):
        STORE.set(reference, Stage.CURRENT, Secret("x" * (room + 1)))
    assert path.read_text() == "B=1\n"
    STORE.set(reference, Stage.CURRENT, Secret("x" * room))
    assert len(got(path, "A")) == room


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dotenv:relative#A", "expected dotenv:///path/.env#NAME"),
        ("dotenv:///x/.env", "expected dotenv:///path/.env#NAME"),
        ("dotenv:///x/.env#A-B", "expected dotenv:///path/.env#NAME"),
        ("dotenv:///x/.env#A__pending", "without __pending or __previous"),
        ("dotenv:///x/.env#A__previous", "without __pending or __previous"),
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

"""Secret references, the secrets behind them, and the places where those lie."""

from __future__ import annotations

import copy
import os
import pickle
import traceback
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opskit.errors import UnresolvedReference
from opskit.secrets.reference import BUILT_IN_SCHEMES, Reference, Resolver, Secret
from opskit.secrets.stores.environment import EnvironmentScheme
from opskit.secrets.stores.files import CredentialScheme, FileScheme

SENTINEL = "hunter2-Xq9"
SCHEMES = ", ".join(sorted(BUILT_IN_SCHEMES))


def resolver(environ: dict[str, str] | None = None) -> Resolver:
    """All built-in schemes over the given environment."""
    given_environ = environ or {}
    return Resolver(
        {"env": EnvironmentScheme(given_environ), "file": FileScheme(), "cred": CredentialScheme(given_environ)}
    )


def refusal(reference: str, environ: dict[str, str] | None = None) -> UnresolvedReference:
    """How resolving `reference` fails."""
    with pytest.raises(UnresolvedReference) as caught:
        resolver(environ).resolve(reference)
    return caught.value


def secret_file(folder: Path, content: bytes = SENTINEL.encode() + b"\n", mode: int = 0o600) -> Path:
    """A file with a secret."""
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("env:NAME", Reference("env", "NAME")),
        ("env://NAME", Reference("env", "NAME")),
        ("ref+env://NAME", Reference("env", "NAME")),
        ("file:///run/x", Reference("file", "/run/x")),
        ("file:/run/x", Reference("file", "/run/x")),
        ("file:///a%20b%23c%3f?raw=1", Reference("file", "/a b#c?", None, (("raw", "1"),))),
        ("file:///d%C3%A9j%C3%A0", Reference("file", "/déjà")),
        ("cred://db#user?a=1&b=x%26y", Reference("cred", "db", "user", (("a", "1"), ("b", "x&y")))),
    ],
)
def test_references_are_read(text: str, reference: Reference) -> None:
    """Each form of the grammar means what the table says."""
    assert Reference.parse(text) == reference


def test_other_schemes_need_only_be_named() -> None:
    """The grammar is open: a scheme in the given table is accepted, with field and options."""
    reference = Reference.parse("vault://kv/app#password?version=3", ["vault"])
    assert (reference.scheme, reference.locator, reference.field) == ("vault", "kv/app", "password")
    assert reference.option("version") == "3" and reference.option("stage") is None


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    st.sampled_from(BUILT_IN_SCHEMES),
    text,
    st.none() | text,
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True), text | st.just("")),
)
@example("env", "//", None, {})
@example("file", "//etc", "#", {"a": "&="})
def test_printed_references_read_back_equal(
    scheme: str, locator: str, field: str | None, options: dict[str, str]
) -> None:
    """str and parse are inverse for every locator, field and option, and the text has no blanks or controls."""
    reference = Reference(scheme, locator, field, tuple(options.items()))
    assert Reference.parse(str(reference)) == reference
    assert str(reference).isprintable() and " " not in str(reference)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (SENTINEL, "inline secret; use env:/file:/cred:/gpg:/…"),
        ("", "inline secret; use env:/file:/cred:/gpg:/…"),
        (f"pa:{SENTINEL}", "inline secret; use env:/file:/cred:/gpg:/…"),
        (f"envv:{SENTINEL}", "inline secret; use env:/file:/cred:/gpg:/…; did you mean 'env'?"),
        (f"plain {SENTINEL}", "inline secret; use env:/file:/cred:/gpg:/…"),
        (
            f"fiel://{SENTINEL}",
            f"unknown scheme 'fiel' in a secret reference: expected one of {SCHEMES}; did you mean 'file'?",
        ),
        (
            f"vualt://{SENTINEL}",
            f"unknown scheme 'vualt' in a secret reference: expected one of {SCHEMES}; did you mean 'vault'?",
        ),
        ("env:", "malformed env reference: expected a locator, got nothing"),
        (
            f"file:///{SENTINEL}%zz",
            "malformed file reference: expected %-encoding of blanks, control characters and '%' itself",
        ),
        (
            f"file:///{SENTINEL} x",
            "malformed file reference: expected %-encoding of blanks, control characters and '%' itself",
        ),
        (f"file:///{SENTINEL}%ff", "malformed file reference: expected %-encoded UTF-8, got other bytes"),
        (f"cred://{SENTINEL}#", "malformed cred reference: expected a field after '#', got nothing"),
        (f"cred://{SENTINEL}?raw", "malformed cred reference: expected options as ?name=value&name=value"),
        (f"cred://{SENTINEL}?a=1&a=2", "malformed cred reference: expected options as ?name=value&name=value"),
    ],
)
def test_what_is_no_reference_is_not_repeated(written: str, message: str) -> None:
    """Text that does not parse may be the secret itself: the message says what is wrong without it."""
    with pytest.raises(UnresolvedReference) as caught:
        Reference.parse(written)
    assert str(caught.value) == message
    assert SENTINEL not in f"{caught.value.hint}" + "".join(traceback.format_exception(caught.value))


def test_a_secret_never_shows() -> None:
    """repr, str, format, f-strings and containers show `[secret]`; pickle and copy are refused."""
    secret = Secret(SENTINEL)
    assert {repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{secret}"} == {"[secret]"}
    assert f"{secret:>10}" == "  [secret]" and str([secret]) == "[[secret]]"
    assert secret.reveal() == SENTINEL and secret.reveal_bytes() == SENTINEL.encode()
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            act(secret)


def test_a_secret_that_is_not_text_says_so_without_its_bytes() -> None:
    """Revealing binary as text fails with a message and a traceback that hold no byte of it."""
    secret = Secret(SENTINEL.encode() + b"\xff")
    with pytest.raises(UnresolvedReference) as caught:
        secret.reveal()
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None
    assert SENTINEL not in "".join(traceback.format_exception(caught.value))


def test_environment_variables_resolve() -> None:
    """env: gives the variable byte for byte."""
    assert resolver({"X": " v\n"}).resolve("env:X").reveal() == " v\n"
    assert resolver({"X": "\udcff"}).resolve("env:X").reveal_bytes() == b"\xff"


@pytest.mark.parametrize(
    ("content", "suffix", "value"),
    [
        (b"v\n", "", b"v"),
        (b"v\r\n", "", b"v"),
        (b"v\n\n", "", b"v\n"),
        (b"v", "", b"v"),
        (b"v\n", "?raw=1", b"v\n"),
        (b"v\n", "?raw=0", b"v"),
        (b"\x00\xff", "", b"\x00\xff"),
    ],
)
def test_files_lose_one_newline_unless_raw(tmp_path: Path, content: bytes, suffix: str, value: bytes) -> None:
    """file:// gives the content without one final newline, or all of it with ?raw=1."""
    path = secret_file(tmp_path, content)
    assert resolver().resolve(f"file://{path}{suffix}").reveal_bytes() == value


def test_credentials_resolve_with_the_group_bits_of_an_acl(tmp_path: Path) -> None:
    """cred:// reads from $CREDENTIALS_DIRECTORY, where systemd's ACLs show as group bits."""
    secret_file(tmp_path, mode=0o440)
    assert resolver({"CREDENTIALS_DIRECTORY": str(tmp_path)}).resolve("cred://secret").reveal() == SENTINEL


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644, 0o610])
def test_files_open_to_others_are_refused(tmp_path: Path, mode: int) -> None:
    """A secret file that its group or others can access is refused with a hint to chmod."""
    error = refusal(f"file://{secret_file(tmp_path, mode=mode)}")
    assert f"expected mode 0600, got {mode:04o}" in str(error)
    assert error.hint is not None and "chmod 600" in error.hint


def test_credentials_open_to_all_are_refused(tmp_path: Path) -> None:
    """A credential that everybody can read is refused."""
    secret_file(tmp_path, mode=0o444)
    assert "is open to others" in str(refusal("cred://secret", {"CREDENTIALS_DIRECTORY": str(tmp_path)}))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_files_of_another_user_are_refused(tmp_path: Path) -> None:
    """A secret file that a third user owns could be swapped by that user."""
    path = secret_file(tmp_path)
    os.chown(path, 65534, -1)
    assert "belongs to another user" in str(refusal(f"file://{path}"))


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    """Folders, pipes without a writer (no hanging) and devices are refused."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "expected one, got a folder" in str(refusal(f"file://{tmp_path}"))
    assert "expected one, got a named pipe" in str(refusal(f"file://{tmp_path}/pipe"))
    assert "expected one, got a device" in str(refusal("file:///dev/zero"))


def test_a_link_leads_to_the_file_that_is_checked(tmp_path: Path) -> None:
    """Symbolic links are followed, and the file behind is held to the rules."""
    path = secret_file(tmp_path)
    (tmp_path / "link").symlink_to(path)
    assert resolver().resolve(f"file://{tmp_path}/link").reveal() == SENTINEL
    path.chmod(0o644)
    assert "is open to others" in str(refusal(f"file://{tmp_path}/link"))


def test_huge_files_are_refused(tmp_path: Path) -> None:
    """A secret of more than 1 MiB is taken for a mistake; one of exactly 1 MiB is not."""
    path = secret_file(tmp_path, b"x" * (1024 * 1024))
    assert len(resolver().resolve(f"file://{path}").reveal_bytes()) == 1024 * 1024
    secret_file(tmp_path, b"x" * (1024 * 1024 + 1))
    assert "at most 1,048,576 bytes" in str(refusal(f"file://{path}"))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "env:ABSENT",
            "env:ABSENT cannot be resolved: expected a value in the environment variable ABSENT, it is not set",
        ),
        ("env:EMPTY", "env:EMPTY cannot be resolved: expected a value in the environment variable EMPTY, it is empty"),
        ("env:A-B", "env:A-B is malformed: expected env:NAME, NAME of A-Z, 0-9 and _"),
        ("env:X#f", "env:X#f names a field: expected none, as env has no fields"),
        ("env:X?raw=1", "env:X?raw=1 has an unknown option: expected none, got 'raw'"),
        (
            "file:///absent/x",
            "file:///absent/x cannot be resolved: expected a readable file, got: no such file or directory",
        ),
        ("file://relative", "file://relative is malformed: expected an absolute path, as in file:///etc/opskit/secret"),
        ("file:///x%00y", "file:///x%00y cannot be resolved: expected a readable file, got: not a file name"),
        ("file:///x?raw=2", "file:///x?raw=2 is malformed: expected raw=0 or raw=1"),
        ("file:///x?row=1", "file:///x?row=1 has an unknown option: expected raw, got 'row'"),
        ("cred://x", "cred://x cannot be resolved: expected $CREDENTIALS_DIRECTORY, it is not set"),
        ("cred://a/b", "cred://a/b is malformed: expected the name of a credential, without '/'"),
        ("cred://..", "cred://.. is malformed: expected the name of a credential, without '/'"),
    ],
)
def test_what_cannot_be_resolved_is_named(reference: str, message: str) -> None:
    """Each failure names the reference, and exits with the code of references."""
    error = refusal(reference, {"EMPTY": "", "X": SENTINEL})
    assert str(error) == message and error.exit_code == 30


def test_an_empty_file_is_no_secret(tmp_path: Path) -> None:
    """An empty secret counts as missing instead of locking with an empty passphrase."""
    path = secret_file(tmp_path, b"\n")
    assert str(refusal(f"file://{path}")) == f"file://{path} is empty: expected a secret, got nothing"


def test_schemes_come_from_the_table() -> None:
    """The resolver knows exactly the schemes that it was given."""
    only_env = Resolver({"env": EnvironmentScheme({"X": "v"})})
    assert only_env.schemes == ("env",) and only_env.resolve(Reference("env", "X")).reveal() == "v"
    with pytest.raises(UnresolvedReference, match="unknown scheme 'file'"):
        only_env.resolve(Reference("file", "/x"))

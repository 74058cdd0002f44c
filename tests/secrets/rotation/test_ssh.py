"""What the contract does not say of SSH keys: the file of authorized keys, and which login proves a key."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.commands import Programs
from opskit.secrets.rotation.targets.ssh import SshKeys, SshSettings, file, lines, target
from opskit.secrets.rotation.targets.ssh.target import public_of
from tests.secrets.rotation import ssh_server
from tests.secrets.rotation.ssh_server import Account

needs_server = pytest.mark.skipif(ssh_server.missing() is not None, reason=str(ssh_server.missing()))

A = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
B = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"
OTHERS = (
    "", "# a comment", f"#{B} somebody's own way to switch off", "@cert-authority what", "ssh-ed25519 short",
    'no-pty,command="echo \\"ssh-ed25519 AAAA\\" # no" ssh-rsa AAAAB3NzaC1yc2EAAAA= c', "\udcff\udcfe", "\t  ",
)  # fmt: skip


@pytest.fixture
def account() -> Iterator[Account]:
    """An account that `first` logs in to."""
    account = ssh_server.running()
    account.accepts(public_of(account.first))
    yield account


def unserved(path: Path) -> SshKeys:
    """The keys of a file that no server reads."""
    return SshKeys(SshSettings(path, "nobody"), Programs({}))


def new() -> Secret:
    """A key."""
    return unserved(Path("unused")).create(None, 0.0)


# The text


@pytest.mark.parametrize(
    "options",
    ["", "no-pty", 'from="10.0.0.0/8,!10.1.1.1",no-pty', 'command="tar c \\"my files\\" # all",restrict'],
)
def test_a_new_key_is_allowed_what_the_old_one_is(options: str) -> None:
    """The options before the old key stand before the new one, quotes and spaces included; the old line stays."""
    before = f"# mine\n{options} {A} old comment\n{OTHERS[5]}\n".replace("\n ", "\n")
    text = lines.with_key(before, f"{B} opskit", lines.key_of(A), "no-such-option")
    assert text == before.replace("old comment\n", f"old comment\n{options} {B} opskit\n".replace("\n ", "\n"))


def test_every_line_of_a_key_counts() -> None:
    """A key that two lines allow different things is followed in both, and switched off in both."""
    before = f'from="10.0.0.1" {A} x\r\n{OTHERS[1]}\nfrom="10.0.0.2"\t {A}\n'
    text = lines.with_key(before, f"{B} new", lines.key_of(A), "")
    assert text is not None and text.count(f" {B} new") == 2 and 'from="10.0.0.2" ' in text
    off = lines.without_key(text, lines.key_of(A), final=False)
    assert not lines.accepts(off, lines.key_of(A)) and lines.accepts(off, lines.key_of(B))
    assert lines.with_key(off, f"{A} other", lines.key_of(B), "") == text
    assert lines.without_key(off, lines.key_of(A), final=True).count("\n") == off.count("\n") - 2


def test_a_key_is_not_added_for_an_unknown_one() -> None:
    """Where the old key has no line, nobody knows what the new one should be allowed."""
    assert lines.with_key(f"{OTHERS[2]}\n", f"{A} new", lines.key_of(B), "") is None


def test_what_people_switched_off_stays_off() -> None:
    """A comment with the key in it is not taken for a line that opskit switched off."""
    text = f"#{A} of people\n# {A}\n"
    assert lines.with_key(text, f"{A} new", None, "no-pty") == f"{text}no-pty {A} new\n"
    assert not lines.accepts(f"{A[:-4]}!{A[-4:]}\n", lines.key_of(A))
    assert lines.without_key(text, lines.key_of(A), final=True) == text


@given(st.lists(st.sampled_from(OTHERS), max_size=6), st.lists(st.sampled_from(OTHERS), max_size=6), st.booleans())
def test_other_lines_stay_as_they_are(above: list[str], below: list[str], final: bool) -> None:
    """A key that comes and goes leaves the file as it was, byte for byte, whatever else is in it."""
    before = "".join(f"{line}\n" for line in (*above, f"{A} old", *below))
    text = lines.with_key(before, f"{B} new", lines.key_of(A), "")
    assert text is not None and lines.accepts(text, lines.key_of(B))
    off = lines.without_key(text, lines.key_of(B), final=final)
    assert not lines.accepts(off, lines.key_of(B))
    assert [line for line in off.split("\n") if not line.startswith(lines.OFF)] == before.split("\n")


# The file


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """A file with one key and no end of line."""
    path = tmp_path / "authorized_keys"
    path.write_text(f"{A} theirs")
    path.chmod(0o640)
    return path


def test_the_file_stays_what_it_was_but_for_its_text(keys_file: Path) -> None:
    """Mode, owner and attributes are the former ones; what a crash left beside is gone."""
    try:
        os.setxattr(keys_file, "user.note", b"kept")
    except OSError:
        pytest.skip("no extended attributes on this file system")
    if os.geteuid() == 0:
        os.chown(keys_file, 12345, 54321)
    before = keys_file.stat()
    (keys_file.parent / ".authorized_keys.opskit").write_text("half a fi")
    unserved(keys_file).apply(new(), None)
    after = keys_file.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.getxattr(keys_file, "user.note") == b"kept" and os.listdir(keys_file.parent) == [keys_file.name]
    text = keys_file.read_text()
    assert text.startswith(f"{A} theirs\nssh-ed25519 ") and text.endswith(" opskit\n")


def test_nothing_is_written_where_nothing_changes(keys_file: Path) -> None:
    """A repetition leaves the very file."""
    key = new()
    unserved(keys_file).apply(key, None)
    before = keys_file.stat().st_ino
    unserved(keys_file).apply(key, None)
    assert keys_file.stat().st_ino == before


def test_a_change_by_somebody_else_stays(keys_file: Path) -> None:
    """What is added while we work is not overwritten: the call is refused, and may be repeated."""

    def edit(text: str) -> str:
        with keys_file.open("a") as other:
            other.write(f"\n{B} theirs\n")
        return f"{text}\nours\n"

    with pytest.raises(TargetRefused, match="by somebody else"):
        file.change(keys_file, edit)
    assert keys_file.read_text() == f"{A} theirs\n{B} theirs\n" and os.listdir(keys_file.parent) == [keys_file.name]


@pytest.mark.parametrize("kind", ["missing", "no-folder", "link", "fifo", "folder", "huge"])
def test_what_is_no_plain_file_is_refused(keys_file: Path, kind: str) -> None:
    """Neither made nor followed nor waited for: a link may lead where root should not write."""
    path, victim = keys_file, keys_file.with_name("victim")
    keys_file.rename(victim)
    if kind == "no-folder":
        path = path.parent / "gone" / "authorized_keys"
    elif kind == "link":
        path.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        path.touch()
        os.truncate(path, file.MOST + 1)
    before = os.listdir(keys_file.parent)
    with pytest.raises(TargetRefused, match="symbolic link" if kind == "link" else None):
        unserved(path).apply(new(), None)
    assert os.listdir(keys_file.parent) == before and victim.read_text() == f"{A} theirs"


def test_a_folder_that_somebody_holds_is_an_error(keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is never let go of ends in an error after a while."""
    monkeypatch.setattr(file, "TIMEOUT", 0.1)
    folder = os.open(keys_file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)
        with pytest.raises(TargetError, match="lock"):
            unserved(keys_file).apply(new(), None)
    finally:
        os.close(folder)


def test_the_wrong_file_is_left_alone(keys_file: Path) -> None:
    """A file without the current key gets no new one, and one without the kept key loses none."""
    old, key = new(), new()
    with pytest.raises(TargetRefused, match="no line of the current key"):
        unserved(keys_file).apply(key, old)
    unserved(keys_file).apply(key, None)
    before = keys_file.read_text()
    for kept in (old, key):
        with pytest.raises(TargetRefused, match="nothing was changed"):
            unserved(keys_file).revoke(key, kept, final=True)
    assert keys_file.read_text() == before


# The value


@pytest.mark.parametrize("kind", [["-t", "ed25519"], ["-t", "ecdsa"], ["-t", "rsa", "-b", "2048", "-m", "PEM"]])
def test_keys_of_people_are_read(tmp_path: Path, kind: list[str]) -> None:
    """The public half is the one that ssh-keygen writes, whatever the kind, and without the last end of line."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen here: apt-get install openssh-client")
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", *kind, "-N", "", "-C", "", "-f", str(path)], check=True)
    assert public_of(Secret(path.read_text().strip())) == path.with_name("key.pub").read_text().strip()


def test_a_value_of_another_shape_is_not_shown(tmp_path: Path) -> None:
    """What is no key, half of one or has a passphrase is refused, without a piece of it."""
    locked = tmp_path / "key"
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen here: apt-get install openssh-client")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "passphrase", "-f", str(locked)], check=True)
    for value in ("hunter2-hunter2", new().reveal()[:200], locked.read_text(), f"{A} public"):
        with pytest.raises(TargetRefused, match="another shape") as error:
            unserved(Path("unused")).verify(Secret(value))
        assert value[:12] not in f"{error.value} {error.value.hint} {error.value.__cause__!r}"
        assert error.value.__suppress_context__


# The login


@needs_server
def test_options_that_were_carried_over_hold(account: Account) -> None:
    """A new key may log in from where the old one may, and from nowhere else."""
    key = new()
    account.accepts(f'from="127.0.0.1",no-pty {public_of(account.first)} old')
    account.target().apply(key, account.first)
    assert account.lines()[1] == f'from="127.0.0.1",no-pty {public_of(key)} opskit'
    assert account.target().verify(key)
    key = new()
    account.accepts(f'from="10.9.9.9" {public_of(account.first)} old')
    account.target().apply(key, account.first)
    assert not account.target().verify(key)


@needs_server
def test_a_key_that_goes_to_the_wrong_file_is_found_out(account: Account, tmp_path: Path) -> None:
    """The target takes it, and the server does not know it: verify says so."""
    path = tmp_path / "authorized_keys"
    path.touch()
    key = new()
    SshKeys(SshSettings(path, account.settings().user), Programs({})).apply(key, None)
    assert not account.target().verify(key)


@needs_server
def test_no_other_key_helps(account: Account) -> None:
    """An agent with an accepted key does not make another key look accepted."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("no ssh-agent here: apt-get install openssh-client")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(account.file.with_name("agent"))], stdout=subprocess.DEVNULL)
    try:
        environ = {"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": str(account.file.with_name("agent"))}
        added = ["ssh-add", "-q", str(account.sshd.server.key)]
        while subprocess.run(added, env=environ, check=False, stderr=subprocess.DEVNULL).returncode:
            assert agent.poll() is None
        assert not SshKeys(account.settings(), Programs(environ)).verify(new())
    finally:
        agent.terminate()
        agent.wait()


@needs_server
def test_the_key_stays_here(account: Account) -> None:
    """The program at the other end reads nothing of the key, and the server's log has none of it."""
    value = Secret(account.first.reveal().strip())
    assert account.target(command=("test", "-z", '"$(cat)"')).verify(value)
    secret = [line for line in account.first.reveal().splitlines() if "-" not in line]
    assert "Accepted publickey" in account.log() and not any(line in account.log() for line in secret)


@needs_server
@pytest.mark.parametrize("command", ["exit 3", "echo 'x@elsewhere: Permission denied (publickey).' >&2; exit 255"])
def test_a_login_that_cannot_do_its_work_is_an_error(account: Account, command: str) -> None:
    """A key that logs in is not refused, whatever the command there says of another login."""
    with pytest.raises(TargetError) as error:
        account.target(command=(command,)).verify(account.first)
    assert not isinstance(error.value, TargetRefused)


@needs_server
def test_a_status_may_show_that_all_is_well(account: Account) -> None:
    """An account with a forced command that ends in its own way can be named so."""
    assert account.target(command=("exit 3",), statuses=(0, 3)).verify(account.first)


@needs_server
def test_an_unknown_host_is_an_error(account: Account, tmp_path: Path) -> None:
    """Without the host's key nothing is known of ours, nor is it remembered for the next time."""
    known = tmp_path / "known hosts"
    known.touch()
    with pytest.raises(TargetError, match="Host key verification failed"):
        account.target(known_hosts=known).verify(account.first)
    assert known.stat().st_size == 0 and stat.S_ISREG(known.stat().st_mode)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh here: apt-get install openssh-client")
@pytest.mark.parametrize("listens", [False, True], ids=["down", "silent"])
def test_a_server_that_does_not_answer_is_an_error(
    tmp_path: Path, listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a port that nobody listens to nor one where nobody speaks makes a key look refused."""
    monkeypatch.setattr(target, "TIMEOUT", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        settings = SshSettings(tmp_path / "unused", "app", "127.0.0.1", server.getsockname()[1])
        with pytest.raises(TargetError, match="expected an answer") as error:
            SshKeys(settings, Programs({"PATH": os.environ["PATH"]})).verify(new())
        assert not isinstance(error.value, TargetRefused)

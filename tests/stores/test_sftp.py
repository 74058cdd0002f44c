"""What the contract does not say of a store at an SFTP server: who is believed, what goes wrong, what is left."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from opskit.errors import ObjectExists, ObjectNotFound, StoreError, StoreFull, StoreRefused
from opskit.stores.local import LocalStore
from opskit.stores.sftp import Connection, Secrets, SftpPlace, SftpStore, is_passing
from opskit.stores.wrappers.retry import Retrying
from tests.cli.running import python
from tests.stores import sftp_server
from tests.stores.sftp_server import PASSWORD, Server, Sshd

pytestmark = pytest.mark.skipif(sftp_server.missing() is not None, reason=str(sftp_server.missing()))


@pytest.fixture
def server() -> Server:
    """The real server of this session."""
    return sftp_server.running()


@pytest.fixture
def own() -> Iterator[Sshd]:
    """A real server that a test may kill."""
    with sftp_server.sshd() as sshd:
        yield sshd


def folder_of(store: SftpStore) -> Path:
    """Where a store's files lie."""
    return Path(store.place.path)


def retrying(store: SftpStore) -> Retrying:
    """The store as wiring makes it, with short pauses."""
    return Retrying(store, is_passing, sleep=lambda seconds: time.sleep(seconds / 4), chance=lambda: 0.5, attempts=6)


# Who is believed


def test_a_server_nobody_knows_is_refused(server: Server, tmp_path: Path) -> None:
    """Without an entry in known_hosts nothing is sent, nothing is noted, and the message shows what to compare."""
    empty = tmp_path / "hosts"
    empty.write_text("")
    store = SftpStore(server.connection(server.place(known_hosts=empty)))
    with pytest.raises(StoreRefused, match=r"host key is not known.*got ssh-ed25519 SHA256:") as caught:
        list(store.list())
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 | ssh-keygen -lf -" in str(caught.value)
    assert empty.read_text() == ""


def test_a_server_with_another_key_is_refused(server: Server, tmp_path: Path) -> None:
    """Where known_hosts has another key for the server, that is said, and how somebody may stand in between."""
    sftp_server.new_key(tmp_path / "other")
    algorithm, text = (tmp_path / "other.pub").read_text().split()[:2]
    hosts = tmp_path / "hosts"
    hosts.write_text(f"[127.0.0.1]:{server.port} {algorithm} {text}\n")
    store = SftpStore(server.connection(server.place(known_hosts=hosts)))
    with pytest.raises(StoreRefused, match="not the known one: expected ssh-ed25519 SHA256") as caught:
        list(store.list())
    assert "somebody may stand between" in str(caught.value.hint)


@pytest.mark.parametrize("damage", ["absent", "revoked"])
def test_no_doubt_about_a_key_is_in_favour_of_the_server(server: Server, tmp_path: Path, damage: str) -> None:
    """A known_hosts file that is not there, and a key that it revokes, are refusals too."""
    hosts = tmp_path / "hosts"
    if damage == "revoked":
        hosts.write_text(
            f"{server.known_hosts.read_text()}@revoked * {server.known_hosts.read_text().split(' ', 1)[1]}"
        )
    store = SftpStore(server.connection(server.place(known_hosts=hosts)))
    with pytest.raises(StoreRefused):
        store.create()


def test_known_hosts_of_the_user_count(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without known_hosts in the config those of ssh are asked: ~/.ssh/known_hosts, hashed names included."""
    (tmp_path / ".ssh").mkdir()
    hosts = tmp_path / ".ssh" / "known_hosts"
    hosts.write_text(server.known_hosts.read_text())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(hosts)], check=True, capture_output=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    store = SftpStore(server.connection(server.place(known_hosts=None)))
    store.create()
    store.put("a", b"x")
    assert store.get("a") == b"x"


def test_a_key_that_the_account_does_not_know_is_refused(server: Server, tmp_path: Path) -> None:
    """The message names account and key; nothing is tried again."""
    key = sftp_server.new_key(tmp_path / "stranger")
    store = SftpStore(server.connection(server.place(identity_file=key)))
    with pytest.raises(StoreRefused, match=f"does not let .* in: it refused the key {key}"):
        list(store.list())


def test_a_key_file_that_is_none_is_named(server: Server, tmp_path: Path) -> None:
    """A private key that is absent, or no key at all, is a refusal with its path, not an unreachable server."""
    (tmp_path / "text").write_text("no key\n")
    for name in ("absent", "text"):
        store = SftpStore(server.connection(server.place(identity_file=tmp_path / name)))
        with pytest.raises(StoreRefused, match=name):
            list(store.list())


def test_passwords_open_an_account_and_never_show() -> None:
    """A right password is let in, a wrong one is refused, and no message nor cause repeats either."""
    server = sftp_server.running_plain()
    place = server.place(identity_file=None)
    store = SftpStore(server.connection(place, lambda: Secrets(password=PASSWORD)))
    store.create()
    store.put("a", b"x")
    assert store.get("a") == b"x"
    wrong = SftpStore(server.connection(place, lambda: Secrets(password="not-it-at-all")))
    with pytest.raises(StoreRefused, match="does not let") as caught:
        list(wrong.list())
    shown = f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"
    assert "not-it-at-all" not in shown and PASSWORD not in shown


def test_a_key_with_a_passphrase_needs_it(server: Server, tmp_path: Path) -> None:
    """With the passphrase the key opens the account, without it the message says what is missing."""
    key = tmp_path / "locked"
    key.write_bytes(server.key.read_bytes())
    key.chmod(0o600)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "pass-phrase", "-f", str(key)], check=True, capture_output=True
    )
    with pytest.raises(StoreRefused, match=str(key)):
        list(SftpStore(server.connection(server.place(identity_file=key))).list())
    store = SftpStore(server.connection(server.place(identity_file=key), lambda: Secrets(passphrase="pass-phrase")))
    store.create()
    assert list(store.list()) == []


# What is there


def test_the_files_are_those_of_a_local_store(server: Server) -> None:
    """What is put at a server is read by a store in the same folder, and the other way round; all is private."""
    store = server.store()
    store.put("packs/ab/one", b"from afar")
    local = LocalStore(folder_of(store))
    local.put("packs/ab/two", b"from here")
    assert local.get("packs/ab/one") == b"from afar" and store.get("packs/ab/two") == b"from here"
    assert list(store.list()) == [info._replace(modified=float(int(info.modified))) for info in local.list()]
    for path in folder_of(store).rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert os.listdir(folder_of(store) / ".tmp") == []


def test_a_relative_path_begins_in_the_login_folder(tmp_path: Path) -> None:
    """A path without a leading slash is below the account's own folder; the location shows that by a tilde."""
    with sftp_server.sshd(f"Match all\n    ForceCommand internal-sftp -d {tmp_path}") as sshd:
        text = sshd.config.read_text().replace("ForceCommand internal-sftp\n", "")
        sshd.config.write_text(text)
        sshd.stop()
        sshd.start()
        store = SftpStore(sshd.server.connection(sshd.server.place("a/b")))
        store.create()
        store.put("c", b"x")
        assert store.location.endswith("/~/a/b") and (tmp_path / "a" / "b" / "c").read_bytes() == b"x"


def test_what_is_no_object_is_passed_over_or_refused(server: Server, tmp_path: Path) -> None:
    """Symlinks, FIFOs and names that no object has are not listed, and never read, written through or deleted."""
    store, outside = server.store(), tmp_path / "outside"
    outside.write_bytes(b"secret")
    folder = folder_of(store)
    store.put("keys/real", b"x")
    (folder / "keys" / "link").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "keys" / "fifo")
    for odd in ("a b", ".hidden", "ä", os.fsdecode(b"\xff\xfe")):
        (folder / odd).write_bytes(b"x")
    assert [info.name for info in store.list()] == ["keys/real"]
    for name in ("keys/link", "keys/fifo"):
        for act in (lambda name=name: store.get(name), lambda name=name: store.delete(name)):
            with pytest.raises(StoreRefused, match="expected an object, got something else"):
                act()
        with pytest.raises(StoreRefused, match="got something else"):
            store.put(name, b"new")
    assert outside.read_bytes() == b"secret" and (folder / "keys" / "link").is_symlink()


def test_a_missing_root_is_an_error_and_is_never_made(server: Server) -> None:
    """Without its folder nothing is listed, read or written, and no put makes it; it is no empty store."""
    store = SftpStore(server.connection())
    for act in (lambda: list(store.list()), lambda: list(store.list("packs")), lambda: store.put("a", b"x")):
        with pytest.raises(StoreError, match="the folder is absent"):
            act()
    assert not folder_of(store).exists()


def test_leftovers_are_cleaned_by_age(server: Server) -> None:
    """Only files under unfinished names that nobody touched for long are removed."""
    store = server.store()
    store.put("a", b"x")
    unfinished = folder_of(store) / ".tmp"
    for name, age in (("old", 9000), ("young", 10)):
        (unfinished / name).write_bytes(b"part")
        os.utime(unfinished / name, (time.time() - age,) * 2)
    assert store.sweep(now=time.time(), older_than=3600, dry_run=True) == (1, 4) and len(os.listdir(unfinished)) == 2
    assert store.sweep(now=time.time(), older_than=3600) == (1, 4)
    assert os.listdir(unfinished) == ["young"] and store.get("a") == b"x"


def test_a_server_tells_what_it_lacks(server: Server) -> None:
    """OpenSSH lacks nothing; of a poorer server it is said what that means, and trying leaves nothing behind."""
    assert server.store().shortcomings() == []
    poor = sftp_server.running_plain().store()
    assert [text.partition(":")[0] for text in poor.shortcomings()] == [
        "the server has no hard links",
        "the server cannot be told to write to its disk (fsync@openssh.com)",
    ]
    assert os.listdir(folder_of(poor) / ".tmp") == []


def test_objects_are_replaced_at_the_poorest_server() -> None:
    """Where nothing can be replaced in one step, the new bytes take the name all the same, and nothing else is left."""
    with sftp_server.plain("--poorest") as server:
        store = server.store()
        store.put("a", b"first")
        with pytest.raises(ObjectExists):
            store.put("a", b"second")
        store.put("a", b"third", replace=True)
        assert store.get("a") == b"third"
        assert os.listdir(folder_of(store) / ".tmp") == []


# What goes wrong


def test_what_cannot_be_reached_is_said_soon(server: Server) -> None:
    """A port where nobody listens is an error at once, which is not tried again."""
    begun = time.monotonic()
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        list(SftpStore(Connection(server.place(port=9))).list())
    assert not is_passing(caught.value) and time.monotonic() - begun < 10


def test_permission_is_a_refusal(tmp_path: Path) -> None:
    """A server that allows reading alone refuses puts and deletes, with what to check."""
    with sftp_server.sshd("Subsystem sftp-unused /bin/false", tmp_path / "files") as sshd:
        sshd.server.store(sshd.server.connection(sshd.server.place(str(tmp_path / "files" / "r")))).put("a", b"x")
        sshd.stop()
        text = sshd.config.read_text().replace("ForceCommand internal-sftp", "ForceCommand internal-sftp -R")
        sshd.config.write_text(text)
        sshd.start()
        store = SftpStore(sshd.server.connection(sshd.server.place(str(tmp_path / "files" / "r"))))
        assert store.get("a") == b"x"
        with pytest.raises(StoreRefused, match="expected permission"):
            store.put("b", b"x")
        with pytest.raises(StoreRefused, match="expected permission"):
            store.delete("a")
        assert [info.name for info in store.list()] == ["a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A disk that fills up during a put is StoreFull; no part of the object stays, and the rest is as it was."""
    files = tmp_path / "small"
    files.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(files)], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with sftp_server.sshd(folder=files) as sshd:
            store = sshd.server.store()
            store.put("a", b"x" * 100_000)
            with pytest.raises(StoreFull, match="expected space"):
                store.put("b", os.urandom(5_000_000))
            assert [info.name for info in store.list()] == ["a"]
            assert os.listdir(folder_of(store) / ".tmp") == []
            store.put("c", b"fits")
            subprocess.run(["mount", "-o", "remount,ro", str(files)], check=True)
            with pytest.raises(StoreRefused, match="read-only"):
                store.put("d", b"x")
    finally:
        subprocess.run(["umount", "-l", str(files)], check=False)


def test_a_server_that_dies_amid_puts_never_shows_a_part(own: Sshd) -> None:
    """However often the server is killed, every listed object is whole, and every acknowledged one is there."""
    store = retrying(own.server.store())
    acknowledged: list[str] = []
    stop = threading.Event()

    def put() -> None:
        while not stop.is_set():
            data = os.urandom(700_000)
            name = f"packs/{sha256(data).hexdigest()}"
            try:
                store.put(name, data)
            except StoreError:
                continue
            acknowledged.append(name)

    with ThreadPoolExecutor(3) as threads:
        writers = [threads.submit(put) for _ in range(3)]
        for kills in range(4):
            while len(acknowledged) < 4 * (kills + 1):
                time.sleep(0.01)
            own.signal(signal.SIGKILL)
        stop.set()
        for each in writers:
            each.result()
    local = LocalStore(Path(store.location.partition(str(own.server.port))[2]))
    found = {info.name: local.get(info.name) for info in local.list()}
    assert all(f"packs/{sha256(data).hexdigest()}" == name for name, data in found.items())
    assert set(acknowledged) <= found.keys()


def test_a_lost_connection_is_made_anew(own: Sshd) -> None:
    """A server that was started again is used again, without a word."""
    store = retrying(own.server.store())
    store.put("a", b"x")
    own.stop()
    own.start()
    assert store.get("a") == b"x"
    own.signal(signal.SIGKILL)
    store.put("b", b"y")
    assert [info.name for info in store.list()] == ["a", "b"]


def test_a_server_that_hangs_is_given_up(own: Sshd) -> None:
    """When nothing comes for the time-out the request fails as lost, and the next one finds the server again."""
    connection = own.server.connection(timeout=1.0)
    store = own.server.store(connection)
    store.put("a", b"x" * 1_000_000)
    own.signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match="no answer came") as caught:
            store.get("a")
        assert is_passing(caught.value)
    finally:
        own.signal(signal.SIGCONT)
    assert len(store.get("a")) == 1_000_000


def test_a_connection_that_breaks_anywhere_shows_no_part(server: Server) -> None:
    """Cut off after any number of bytes on the way there, a put leaves no object or a whole one."""
    data, store = os.urandom(300_000), server.store()
    anywhere = _for_any_port(server)
    outcomes = set()
    for sent in (100, 2_000, 3_000, 4_000, 5_000, 50_000, *range(302_500, 304_500, 400)):
        with sftp_server.cut_after(server.port, sent) as port:
            cut = SftpStore(server.connection(server.place(store.place.path, port=port, known_hosts=anywhere)))
            try:
                cut.put(f"packs/{sent}", data)
                outcomes.add("stored")
            except StoreError:
                outcomes.add("broken off")
            cut.close()
    assert {store.get(info.name) for info in store.list()} <= {data} and "broken off" in outcomes
    assert {int(info.name.removeprefix("packs/")) for info in store.list()}.isdisjoint({100, 5_000, 50_000})


def _for_any_port(server: Server) -> Path:
    """A known_hosts file for this server behind whatever port."""
    path = server.known_hosts.with_name("any")
    path.write_text("* " + server.known_hosts.read_text().split(" ", 1)[1])
    return path


PUTS = """
import sys, pathlib, hashlib, os
from opskit.stores.sftp import Connection, SftpPlace, SftpStore
path, port, key, hosts = sys.argv[1:]
place = SftpPlace("127.0.0.1", path, port=int(port), identity_file=pathlib.Path(key), known_hosts=pathlib.Path(hosts))
store = SftpStore(Connection(place))
while True:
    data = os.urandom(400_000)
    name = hashlib.sha256(data).hexdigest()
    store.put(f"packs/{name[:2]}/{name}", data)
    print(name, flush=True)
"""


def test_a_killed_writer_leaves_whole_objects_only(server: Server, tmp_path: Path) -> None:
    """However this end is killed, every listed object is whole and every acknowledged one is there."""
    store = server.store()
    acknowledged: list[str] = []
    arguments = [store.place.path, str(server.port), str(server.key), str(server.known_hosts)]
    for kills in range(3):
        output = tmp_path / f"output-{kills}"
        with output.open("wb") as file:
            child = subprocess.Popen([sys.executable, "-c", PUTS, *arguments], stdout=file)
        while output.read_text().count("\n") < 2 + kills:
            assert child.poll() is None
        child.kill()
        child.wait()
        acknowledged += output.read_text().split()
        found = {info.name.rpartition("/")[2]: store.get(info.name) for info in store.list()}
        assert all(sha256(data).hexdigest() == name for name, data in found.items())
        assert set(acknowledged) <= found.keys()


def test_two_connections_race_for_one_name(server: Server) -> None:
    """Of two hosts that put one name at once exactly one wins, and its bytes stay."""
    first = server.store()
    second = SftpStore(server.connection(first.place))
    for number in range(10):
        start = threading.Barrier(2)

        def put(store: SftpStore, start: threading.Barrier = start, number: int = number) -> bytes | None:
            data = os.urandom(200_000)
            start.wait()
            try:
                store.put(f"marks/{number}", data)
            except ObjectExists:
                return None
            return data

        with ThreadPoolExecutor(2) as pool:
            won = [data for data in pool.map(put, (first, second)) if data is not None]
        assert len(won) == 1 and first.get(f"marks/{number}") == won[0]


def test_a_server_that_allows_one_session_will_do() -> None:
    """Where only one session is allowed, requests from several threads take turns."""
    with sftp_server.sshd("MaxSessions 1") as sshd:
        store = sshd.server.store()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: store.put(f"a/{number}", os.urandom(300_000)), range(8)))
        assert len(list(store.list())) == 8


def test_an_absent_object_is_not_worth_another_try(server: Server) -> None:
    """An object that is not there is ObjectNotFound, not a lost connection."""
    with pytest.raises(ObjectNotFound):
        retrying(server.store()).get("packs/absent")


def test_locations_are_shown_as_they_are_typed() -> None:
    """User, port, an address of IPv6 and a folder below the login folder stand in the location."""
    assert SftpPlace("h", "/a").location == "sftp://h/a"
    assert SftpPlace("::1", "a/b", port=23, user="u").location == "sftp://u@[::1]:23/~/a/b"


def test_what_asyncio_says_of_a_lost_connection_is_not_shown() -> None:
    """Tasks of a connection that was thrown away end with errors that nobody waits for: no traceback on stderr."""
    code = """
import asyncio, gc, logging
from opskit.stores.sftp.running import running

async def broken():
    raise OSError("gone")

async def act():
    task = asyncio.get_running_loop().create_task(broken())
    await asyncio.wait([task])

running().run(act())
gc.collect()
logging.getLogger("asyncio").warning("socket.send() raised exception.")
"""
    answer = python(code)
    assert (answer.returncode, answer.stderr) == (0, ""), answer

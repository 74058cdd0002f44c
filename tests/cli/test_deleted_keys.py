"""A config that names a recipient whose private key was deleted: nothing is encrypted to him, and all say so."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from opskit.gpg import Keyring
from opskit.repository import deleted_keys
from tests.cli.hosts import Machine, everything, fill
from tests.gpg.keys import private_folder, raw_gpg

DAY = datetime(2026, 11, 23, tzinfo=UTC)
WHY = "its private key was deleted on 2026-11-23, so nobody could open it"
LISTS = r'recipients: \["?[0-9A-F]{40}.*\]'


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A host with one run at two copies."""
    machine = Machine(tmp_path_factory.mktemp("m"))
    fill(machine.source)
    assert machine.init().code == 0
    assert machine.run("backup").code == 0
    return machine


@pytest.fixture
def host(first: Machine, tmp_short: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same host, to be changed; whoever types has no keys of his own."""
    monkeypatch.setenv("GNUPGHOME", str(tmp_short / "none"))
    machine = first.copy_to(tmp_short / "host")
    assert machine.run("backup").code == 0  # what was copied may have lost its holes
    return machine


@pytest.fixture
def gone(host: Machine, tmp_short: Path) -> str:
    """A recipient whom the host knows, who is noted as deleted; `gone.asc` and `gone.key` are beside the host."""
    with Keyring(private_folder(tmp_short / "ring")) as ring, Keyring(host.state / "gnupg") as own:
        fingerprint = ring.generate("Gone <g@example.org>")
        public = ring.export_public([fingerprint])
        own.import_keys(public)
        (host.folder / "gone.asc").write_bytes(public)
        (host.folder / "gone.key").write_bytes(ring.export_secret(fingerprint))
    deleted_keys.note(host.state, fingerprint, DAY)
    return fingerprint


def mine(machine: Machine) -> str:
    (found,) = recipients(machine)
    return found


def recipients(machine: Machine) -> list[str]:
    found: list[str] = machine.run("config", "show", "--json").json["keys"]["recipients"]
    return found


def put_back(machine: Machine, *fingerprints: str) -> None:
    """As configuration management does."""
    text, count = re.subn(LISTS, f"recipients: {json.dumps(fingerprints)}", machine.config.read_text())
    assert count == 1
    machine.config.write_text(text)


def readers(machine: Machine, before: set[str]) -> list[str]:
    """The ids of the encryption keys to which key objects at `a` are that were not there before, by gpg itself."""
    new = sorted(each for each in everything(machine.a) - before if each.startswith("keys/"))
    assert new
    told = [raw_gpg(machine.state / "gnupg", "--list-only", "--list-packets", str(machine.a / each)) for each in new]
    return sorted({each.decode() for text in told for each in re.findall(rb"keyid ([0-9A-F]{16})", text)})


def ids_of(machine: Machine, *fingerprints: str) -> list[str]:
    """The ids of the encryption keys of these recipients."""
    with Keyring(machine.state / "gnupg") as ring:
        return sorted(key.key_ids[-1] for key in ring.keys() if key.fingerprint in fingerprints)


def backed_up(machine: Machine, name: str) -> tuple[Any, list[str]]:
    """What a backup of one file more says, and whose its key object is."""
    (machine.source / name).write_text(f"{name}\n")
    before = everything(machine.a)
    return machine.run("backup"), readers(machine, before)


def test_one_of_two_recipients_is_left_out(host: Machine, gone: str, tmp_path: Path) -> None:
    """The backup is made for the other one, who restores it; exit 3, who was left out, and what to do about it."""
    other = mine(host)
    put_back(host, gone, other)
    answer, opens = backed_up(host, "new")
    assert answer.code == 3 and f"recipient {gone}: {WHY}" in answer.err and "opskit keys add" in answer.err
    assert opens == ids_of(host, other)
    assert host.run("restore", "latest", "--key", host.key, "--target", tmp_path / "t").code == 0
    assert (tmp_path / "t" / host.source.relative_to("/") / "new").read_text() == "new\n"


def test_with_nobody_else_nothing_is_written(host: Machine, gone: str) -> None:
    """As with expired recipients only: exit 12, and the copies are as they were."""
    put_back(host, gone)
    (host.source / "new").write_text("x")
    before = everything(host.a)
    answer = host.run("backup")
    assert answer.code == 12 and f"{gone}: {WHY}" in answer.err and "on paper" in answer.err, answer.err
    assert everything(host.a) == before


def test_everybody_says_it(host: Machine, gone: str) -> None:
    """`config validate`, `status` and `keys list` name who it is, and stay silent of a deleted key that is retired."""
    other = mine(host)
    for command in (("config", "validate"), ("status",)):
        assert WHY not in host.run(*command).err
    put_back(host, other, gone)
    for command in (("config", "validate"), ("status",)):
        assert f"keys.recipients: {gone}: {WHY}" in host.run(*command).err
    assert any(gone in each and WHY in each for each in host.run("config", "validate", "--json").json["warnings"])
    listed = host.run("keys", "list")
    assert listed.code == 3 and "deleted 2026-11-23" in listed.out and f"{gone}: {WHY}" in listed.err
    assert deleted_keys.HINT in listed.err
    shown = {each["fingerprint"]: each for each in host.run("keys", "list", "--json").json}
    assert (shown[gone]["deleted"], shown[gone]["problem"], shown[other]["deleted"]) == ("2026-11-23", WHY, None)


def test_keys_add_takes_it_back(host: Machine, gone: str, tmp_path: Path) -> None:
    """Whoever adds that very key has it: it opens what is there and what comes, also where the config names it."""
    other = mine(host)
    put_back(host, other, gone)
    add = ("keys", "add", host.folder / "gone.asc", "--key", host.key)
    dry = host.run(*add, "--dry-run", "--json")
    assert dry.code == 0 and dry.json["taken_back"] == gone and gone in deleted_keys.read(host.state)
    answer = host.run(*add)
    assert answer.code == 0 and f"{gone}: the note" in answer.out, answer.err
    assert deleted_keys.read(host.state) == {} and recipients(host) == [other, gone]
    assert host.run("restore", "latest", "--key", host.folder / "gone.key", "--target", tmp_path / "old").code == 0
    answer, opens = backed_up(host, "new")
    assert answer.code == 0 and opens == ids_of(host, other, gone)


def test_a_fingerprint_is_enough_where_the_host_has_the_public_half(host: Machine, gone: str) -> None:
    """One that it does not have, and its own, are not taken for a recipient's."""
    other, own = mine(host), host.run("config", "show", "--json").json["keys"]["host"]
    assert host.run("keys", "add", "F" * 40).code == host.run("keys", "add", own).code == 2
    put_back(host, gone)
    assert host.run("keys", "add", gone).code == 3, "no private key at hand: only what comes"
    assert deleted_keys.read(host.state) == {}
    answer, opens = backed_up(host, "new")
    assert answer.code == 0 and opens == ids_of(host, gone)
    put_back(host, other)


def test_what_leaves_only_him_is_refused(host: Machine, gone: str) -> None:
    """He counts for nobody: neither removal nor rotation brings about a config, or key objects, of his alone."""
    other = mine(host)
    put_back(host, other, gone)
    before = host.config.read_text(), everything(host.a)
    refused = host.run("keys", "remove", other, "--key", host.key)
    assert refused.code == 2 and f"{gone}: {WHY}" in refused.err and deleted_keys.HINT in refused.err
    refused = host.run("keys", "rotate", "--key", host.key)
    assert refused.code == 12 and f"{gone}: {WHY}" in refused.err
    assert (host.config.read_text(), everything(host.a)) == before


def test_the_way_back(host: Machine, gone: str) -> None:
    """Who is right is added beside him, and he removed; the note stays, for he may come again."""
    other = mine(host)
    public = host.folder / "other.asc"
    with Keyring(host.state / "gnupg") as ring:
        public.write_bytes(ring.export_public([other]))
    put_back(host, gone)
    assert host.run("keys", "remove", gone).code == 2, "the last one"
    assert host.run("keys", "add", public).code == 3
    answer = host.run("keys", "remove", gone, "--key", host.key)
    assert answer.code == 0 and recipients(host) == [other], answer.err
    assert host.run("backup").code == 0 and host.run("keys", "list").code == 0
    assert gone in deleted_keys.read(host.state)


def test_nobody_is_removed_without_whom_only_he_is_left(host: Machine, gone: str, tmp_short: Path) -> None:
    """Key objects that he and who goes open, and nobody else, would open to nobody: refused, and nothing changes."""
    other = mine(host)
    deleted_keys.take_back(host.state, gone, DAY)
    assert host.run("keys", "add", host.folder / "gone.asc", "--key", host.key).code == 0
    deleted_keys.note(host.state, gone, DAY)
    with Keyring(private_folder(tmp_short / "third")) as ring:
        third = ring.generate("Third <t@example.org>")
        (host.folder / "third.asc").write_bytes(ring.export_public([third]))
    assert host.run("keys", "add", host.folder / "third.asc").code == 3
    answer = host.run("keys", "remove", other)
    assert answer.code == 12 and "nobody who would be left" in answer.err
    assert recipients(host) == [other, gone, third]


def test_no_key_is_safe_where_only_a_deleted_one_opens_the_rest(host: Machine, gone: str) -> None:
    """What a retired key and the deleted recipient open is opened by the retired one alone: do not destroy it."""
    other = mine(host)
    deleted_keys.take_back(host.state, gone, DAY)
    assert host.run("keys", "add", host.folder / "gone.asc", "--key", host.key).code == 0
    assert host.run("keys", "remove", other).code == 3
    safe = {each["fingerprint"]: each["safe_to_destroy"] for each in host.run("keys", "list", "--json").json}
    assert safe[other] is True
    deleted_keys.note(host.state, gone, DAY)
    safe = {each["fingerprint"]: each["safe_to_destroy"] for each in host.run("keys", "list", "--json").json}
    assert safe[other] is False
    assert f"{other} IS STILL NEEDED" in host.run("keys", "list").err


def test_a_damaged_note_stops_what_encrypts_and_not_a_restore(host: Machine, gone: str, tmp_path: Path) -> None:
    """Nobody knows whom to leave out: exit 2 with what to do; what is there must come back all the same."""
    (host.state / "deleted-keys.json").write_bytes(b"\0" * 40)
    (host.source / "new").write_text("x")
    before = everything(host.a)
    for command in (("backup",), ("keys", "rotate", "--key", host.key), ("keys", "list"), ("config", "validate")):
        answer = host.run(*command)
        assert answer.code == 2 and "deleted-keys.json is damaged" in answer.err and "hint" in answer.err, answer.err
    assert everything(host.a) == before
    told = host.run("status")
    assert told.code == 2 and "data" in told.out and "is damaged" in told.err
    assert host.run("restore", "latest", "--key", host.key, "--target", tmp_path / "t").code == 0
    assert host.run("verify").code == 0


def test_a_config_is_judged_where_the_note_is_not_to_be_read(host: Machine, gone: str) -> None:
    """By whoever may not look into the state folder, say: a warning."""
    (host.state / "deleted-keys.json").unlink()
    (host.state / "deleted-keys.json").mkdir()
    answer = host.run("config", "validate")
    assert answer.code == 0 and "whose private key was deleted is not known here" in answer.err
    assert host.run("backup").code == 2


def test_files_of_secrets_are_not_for_him(host: Machine, gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key may have been deleted because it was stolen."""
    other = mine(host)
    put_back(host, other, gone)
    file = host.state / "secrets.gpg"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"s3cret-value")))
    assert host.run("secrets", "set", f"gpg://{file}#db").code == 0
    told = raw_gpg(host.state / "gnupg", "--list-only", "--list-packets", str(file))
    keys = {each.decode() for each in re.findall(rb"keyid ([0-9A-F]{16})", told)}
    assert keys.isdisjoint(ids_of(host, gone)) and keys.issuperset(ids_of(host, other))


def test_init_does_not_take_him(host: Machine, gone: str) -> None:
    """With a state folder that knows him: nobody could restore; beside another recipient he is told of."""
    host.config.unlink()
    words = ("--state-dir", host.state, "--source", f"data={host.source}", "--destination", f"a={host.a}")
    common = ("init", *words, "--recipient", host.folder / "gone.asc")
    answer = host.run(*common)
    assert answer.code == 2 and "nobody could restore" in answer.err and WHY in answer.err
    with Keyring(host.state / "gnupg") as ring:
        (other,) = (key.fingerprint for key in ring.keys() if not key.has_secret and key.fingerprint != gone)
        (host.folder / "other.asc").write_bytes(ring.export_public([other]))
    answer = host.run(*common, "--recipient", host.folder / "other.asc")
    assert f"no snapshot will be readable by recipient {gone}: {WHY}" in answer.err, answer.err

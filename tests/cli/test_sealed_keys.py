"""Private keys that were deleted and sealed before: what only they open still opens, with the key of an heir."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opskit.gpg import Keyring, ephemeral_keyring
from opskit.repository import deleted_keys, sealed_keys
from opskit.repository.recovery import keyfile, kit
from tests.cli.hosts import Machine, everything, fill, objects
from tests.cli.recovery import name_recipients, public_half, restores
from tests.cli.test_keys_rotate import other_host, recipients
from tests.gpg.keys import private_folder, raw_gpg

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A host whose old recipient `key.asc` was replaced by `new.asc`; its last snapshot only the old one opens."""
    machine = Machine(tmp_path_factory.mktemp("m"))
    fill(machine.source)
    assert machine.init().code == 0
    assert machine.run("backup").code == 0
    (old,), _ = recipients(machine)
    rotated(machine, machine.key, new(machine))
    (heir,), _ = recipients(machine)
    configure(machine, old, heir)
    backed_up(machine, "late")
    configure(machine, heir, old)
    return machine


@pytest.fixture
def host(first: Machine, tmp_short: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same host, to be changed; whoever types has no keys of his own."""
    monkeypatch.setenv("GNUPGHOME", str(tmp_short / "none"))
    return first.copy_to(tmp_short / "host")


def new(machine: Machine) -> Path:
    return machine.folder / "new.asc"


def rotated(machine: Machine, key: Path, file: Path) -> None:
    answer = machine.run(
        "keys", "rotate", "--key", key, "--new-recipient", "N <n@example.org>", "--recovery-key", file,
        "--no-passphrase",
    )  # fmt: skip
    assert answer.code in (0, 3), answer.err


def backed_up(machine: Machine, name: str) -> None:
    (machine.source / name).write_text(f"{name}\n")
    assert machine.run("backup").code == 0


def configure(machine: Machine, recipient: str, *retired: str) -> None:
    """Write the config by hand."""
    name_recipients(machine, recipient)
    machine.edit_config("recipients: [", f"retired: [{', '.join(retired)}]\n  recipients: [")
    assert recipients(machine) == ([recipient], [*retired])


def sealed(
    machine: Machine, key: Path, recipient: str, heirs: Sequence[str], when: datetime = NOW, signer: str = ""
) -> tuple[str, bytes]:
    config = machine.run("config", "show", "--json").json
    private = keyfile.decode(key.read_bytes()).secret
    repository = keyfile.decode(machine.key.read_bytes()).repository
    with Keyring(machine.state / "gnupg") as ring:
        return sealed_keys.make(
            ring, signer or config["keys"]["host"], repository, config["host"], recipient, heirs, private, when
        )


def put(machine: Machine, name: str, data: bytes) -> None:
    for copy in (machine.a, machine.b):
        (copy / "evidence").mkdir(exist_ok=True)
        (copy / name).write_bytes(data)


def old_and_heir(machine: Machine) -> tuple[str, str]:
    (heir,), (old,) = recipients(machine)
    return old, heir


def seal(machine: Machine) -> None:
    """Seal the old key to the new one at both copies."""
    old, heir = old_and_heir(machine)
    put(machine, *sealed(machine, machine.key, old, [heir]))


def consents(machine: Machine) -> int:
    """How many agreed to the newest mark that supersedes key objects."""
    newest = max(machine.a.glob("marks/*-supersede-*"))
    with Keyring(machine.state / "gnupg") as ring:
        return len(json.loads(ring.verify(newest.read_bytes()).payload)["consents"])


def late_in(target: Path) -> str:
    (found,) = target.rglob("late")
    return found.read_text()


def test_what_only_the_old_key_opens_restores_with_the_new_one(
    host: Machine, tmp_path: Path, tmp_short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By each copy and key file alone, by the config, and in whatever reads; without the sealed key it does not."""
    assert not any(restores(host, new(host), copy) for copy in (host.a, host.b))
    seal(host)
    assert all(restores(host, new(host), copy) for copy in (host.a, host.b))
    for words in (("ls", "latest"), ("find", "late"), ("restore", "latest", "--target", tmp_path / "t")):
        answer = host.run(*words, "--key", new(host))
        assert answer.code == 0, answer.err
    assert late_in(tmp_path / "t") == "late\n"
    home = private_folder(tmp_short / "own")
    raw_gpg(home, "--import", data=new(host).read_bytes())
    monkeypatch.setenv("GNUPGHOME", str(home))
    assert host.run("ls", "latest").code == 0, "with the person's own gpg"
    shown = [each["id"] for each in host.run("snapshots", "--json").json]
    assert host.run("diff", shown[0], shown[-1], "--key", new(host)).code in (0, 3)
    assert host.run("drill", "run", "--snapshot", "latest", "--key", new(host), "--scratch", tmp_path).code == 0


def test_a_lost_host_comes_back(host: Machine) -> None:
    """`init --from` with the new key alone reads what only the old one opens."""
    seal(host)
    shutil.rmtree(host.state)
    answer = host.run("init", "--from", host.a, "--key", new(host), "--recovery-key", host.folder / "third.asc")
    assert answer.code in (0, 3), answer.err
    assert restores(host, new(host), host.a)


def test_what_no_maintainer_made_is_not_used(host: Machine, tmp_path: Path) -> None:
    """A signer's word is not enough, nor is a torn object."""
    old, heir = old_and_heir(host)
    with Keyring(host.state / "gnupg") as ring:
        stranger = ring.generate("stranger")
    put(host, *sealed(host, host.key, old, [heir], signer=stranger))
    assert not restores(host, new(host), host.a)
    name, data = sealed(host, host.key, old, [heir])
    put(host, name, data[:-100])
    assert not restores(host, new(host), host.a)
    (host.b / name).write_bytes(data)
    assert restores(host, new(host), host.b) and not restores(host, new(host), host.a)
    assert host.run("restore", "latest", "--key", new(host), "--target", tmp_path / "t").code == 0


def test_a_sealed_key_may_open_another(host: Machine) -> None:
    """After two rotations the newest key opens the second one's sealed key, and that the first one's."""
    (old, heir), third = old_and_heir(host), host.folder / "third.asc"
    rotated(host, new(host), third)
    (last,), _ = recipients(host)
    configure(host, old, heir, last)
    backed_up(host, "later")
    configure(host, last, old, heir)
    put(host, *sealed(host, host.key, old, [heir]))
    assert not restores(host, third, host.a)
    # the older clock of whoever sealed the other one makes the first link come last
    put(host, *sealed(host, new(host), heir, [last], NOW - timedelta(days=1)))
    assert restores(host, third, host.a)


def test_rotate_encrypts_anew_what_only_a_sealed_key_opens(host: Machine) -> None:
    """Then the new key alone opens it; `keys list` says before who can, and after that the old one is safe to go."""
    old, heir = old_and_heir(host)
    assert f"{old} IS STILL NEEDED" in host.run("keys", "list").err
    seal(host)
    deleted_keys.note(host.state, old, NOW)
    listed = host.run("keys", "list")
    assert "IS STILL NEEDED" not in listed.err and f"key of {heir} opens 1 key object" in listed.err, listed.err
    assert "opskit keys rotate --key FILE" in listed.err and f"deleted {NOW:%Y-%m-%d}, sealed" in listed.out
    shown = {each["fingerprint"]: each for each in host.run("keys", "list", "--json").json}
    assert (shown[old]["sealed_to"], shown[heir]["sealed_to"]) == ([heir], []) and not shown[old]["safe_to_destroy"]
    before = objects(host.a, "keys")
    answer = host.run("keys", "rotate", "--key", new(host))
    assert answer.code == 0, answer.err
    (made,) = objects(host.a, "keys")
    assert made not in before and consents(host) == 1, "the sealed key agreed to nothing"
    shutil.rmtree(host.a / "evidence")
    assert restores(host, new(host), host.a)
    assert f"{old} is safe to destroy" in host.run("keys", "list").err


def test_another_host_learns_that_a_recipient_is_gone(host: Machine, tmp_short: Path) -> None:
    """Its config still names the old one: with another recipient it goes on (3), else it fails (12) and writes none."""
    old, heir = old_and_heir(host)
    second = other_host(host, tmp_short / "second")
    (second.source / "x").write_text("x")
    name_recipients(second, old)
    assert second.run("backup").code == 0 and deleted_keys.read(second.state) == {}
    seal(host)
    (second.source / "y").write_text("y")
    before = everything(host.a)
    answer = second.run("backup")
    assert answer.code == 12 and f"{old}: its private key was deleted on {NOW:%Y-%m-%d}" in answer.err, answer.err
    assert everything(host.a) == before and [*deleted_keys.read(second.state)] == [old]
    with Keyring(second.state / "gnupg") as ring:
        ring.import_keys(public_half(host, heir).read_bytes())
    name_recipients(second, old, heir)
    answer = second.run("backup", "--json")
    assert answer.code == 3
    assert restores(host, new(host), host.a, answer.json[0]["snapshot"])
    # whoever adds it has it, whatever was said before
    assert second.run("keys", "add", old, "--key", host.key).code in (0, 3)
    assert second.run("backup").code == 0 and deleted_keys.read(second.state) == {}


def test_it_is_evidence_like_any_other(host: Machine) -> None:
    """`sync` brings it to a copy that lacks it; `verify`, `stats`, `status` and `prune` take no offence at it."""
    old, _ = old_and_heir(host)
    seal(host)
    shutil.rmtree(host.b / "evidence")
    assert f"{old} IS STILL NEEDED" in host.run("keys", "list").err, "a copy lacks it"
    assert host.run("sync").code == 0
    assert objects(host.a, "evidence") == objects(host.b, "evidence") != set()
    for words in (("verify",), ("stats",), ("prune",), ("backup",), ("keys", "list")):
        answer = host.run(*words)
        assert answer.code == 0, (words, answer.err)
    assert host.run("status").code in (0, 3)
    assert objects(host.a, "evidence") == objects(host.b, "evidence") != set()


def test_by_hand(host: Machine, tmp_short: Path) -> None:
    """The commands of RECOVER.md, which docs/operations.md repeats, restore with recover.py what needs a sealed key."""
    seal(host)
    third, (_, heir) = host.folder / "third.asc", old_and_heir(host)
    with Keyring(host.state / "gnupg") as ring, ephemeral_keyring(None) as other:
        last = other.generate("Last <l@example.org>")
        ring.import_keys(other.export_public([last]))
        file = keyfile.decode(new(host).read_bytes())
        third.write_bytes(keyfile.encode(replace(file, secret=other.export_secret(last))))
    put(host, *sealed(host, new(host), heir, [last], NOW + timedelta(seconds=1)))
    (script,) = re.findall("```bash\n(.*?)```", kit()["RECOVER.md"].decode(), re.DOTALL)
    assert script in (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    target = host.folder / "recovered"
    done = subprocess.run(
        ["bash", "-uc", f"{script}test ! -e $GNUPGHOME"],
        cwd=host.a,
        env={"PATH": os.environ["PATH"], "KEY_FILE": str(third), "TARGET": str(target), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and late_in(target) == "late\n", done.stderr
    assert done.stderr.count("Good signature") == 2

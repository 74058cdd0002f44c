"""Ways into a repository: whose word counts, and who is asked for a passphrase."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from opskit import access, gpg
from opskit.config.load import load
from opskit.errors import NoKey, RepositoryNotFound
from opskit.gpg import Keyring
from opskit.repository.recovery import keyfile
from tests.cli.labs import HostLab, lab

__all__ = ["lab"]


def rewrite(path: Path, **changes: object) -> Path:
    """Change fields of a recovery-key file."""
    path.write_bytes(keyfile.encode(replace(keyfile.decode(path.read_bytes()), **changes)))  # type: ignore[arg-type]
    return path


def test_both_ways_show_the_same_history(lab: HostLab) -> None:
    """The config and the key file alone find the same repository, signers who count, and snapshots."""
    with access.by_config(load(lab.config)) as by_config, access.by_key_file(str(lab.root / "a"), lab.key) as by_key:
        names = [[each.name for each in opened.history().snapshots] for opened in (by_config, by_key)]
        assert names[0] == names[1] and len(names[0]) == 3
        assert by_config.repository == by_key.repository
        assert [each.manifest.source for each in by_key.history("db").snapshots] == ["db"]
        assert by_key.recover_sha256 is not None and by_key.cache is None


def test_only_the_named_destinations_are_opened(lab: HostLab) -> None:
    """Of the config's destinations those named are opened, and an absent one is kept with its reason."""
    config = load(lab.config)
    with access.by_config(config, ["b"]) as opened:
        assert [copy.destination for copy in opened.copies] == ["b"]
    (lab.root / "b").rename(lab.root / "away")
    with access.by_config(config) as opened:
        assert [copy.destination for copy in opened.copies] == ["a"] and list(opened.absent) == ["b"]


def test_signers_come_from_the_key_file_not_from_the_copy(lab: HostLab, tmp_short: Path) -> None:
    """A key file that names another signer believes nothing of what the host wrote."""
    with Keyring(tmp_short / "g") as stranger:
        fingerprint = stranger.generate("stranger")
        public = stranger.export_public([fingerprint])
    rewrite(lab.key, signers=[fingerprint], maintainers=[], public=public)
    with access.by_key_file(str(lab.root / "a"), lab.key) as opened:
        history = opened.history()
    assert history.snapshots == [] and len(history.rejected) == 3


def test_a_copy_of_another_repository_is_refused(lab: HostLab) -> None:
    """A key file says which repository it belongs to; another one at that place is NoKey, and both are named."""
    rewrite(lab.key, repository="0" * 32)
    told = "is for repository 0+, this is repository [0-9a-f]{32}"
    with pytest.raises(NoKey, match=told), access.by_key_file(str(lab.root / "a"), lab.key):
        pass


def test_a_bare_key_cannot_vouch_for_anyone(lab: HostLab) -> None:
    """An exported private key opens data, but does not say whose signatures to believe: NoKey."""
    lab.key.write_bytes(keyfile.decode(lab.key.read_bytes()).secret)
    with pytest.raises(NoKey, match="whose signatures"), access.by_key_file(str(lab.root / "a"), lab.key):
        pass


def test_places_and_files_that_are_not_there(lab: HostLab, tmp_path: Path) -> None:
    """No repository is RepositoryNotFound, an unreadable key file NoKey, lost state RepositoryNotFound."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(RepositoryNotFound), access.by_key_file(str(tmp_path / "empty"), lab.key):
        pass
    with pytest.raises(NoKey, match="cannot be read"), access.by_key_file(str(lab.root / "a"), tmp_path / "none"):
        pass
    shutil.rmtree(lab.root / "state")
    with pytest.raises(RepositoryNotFound), access.by_config(load(lab.config)):
        pass


@pytest.mark.parametrize("kind", ["a character", "half of it"])
def test_a_broken_armor_is_no_key(lab: HostLab, kind: str) -> None:
    """A private key whose armor was damaged or cut short on paper or disk is NoKey, and the hint says what to do."""
    lines = lab.key.read_text().split("\n")
    first = next(number for number, line in enumerate(lines) if "BEGIN PGP PRIVATE" in line)
    last = next(number for number, line in enumerate(lines) if "END PGP PRIVATE" in line)
    if kind == "a character":
        lines[first + 2] = "?" + lines[first + 2][1:]
    else:
        del lines[first + 2 : last]
    lab.key.write_text("\n".join(lines))
    with pytest.raises(NoKey, match="broken one") as caught, access.private_key(lab.key, lambda question: b""):
        pass
    assert caught.value.exit_code == 12 and "copy" in str(caught.value.hint)


def protected(folder: Path) -> tuple[Path, bytes]:
    """A protected private key in a file, and a message to it."""
    with Keyring(folder / "g") as keyring:
        keyring.create()
        (folder / "g" / "gpg-agent.conf").write_text("s2k-count 65536\n")  # else the agent measures for seconds
        fingerprint = keyring.generate("P <p@example.org>", passphrase=b"correct horse")
        (folder / "key.asc").write_bytes(keyring.export_secret(fingerprint, passphrase=b"correct horse"))
        return folder / "key.asc", keyring.encrypt(b"run keys", [fingerprint])


def test_the_passphrase_is_asked_for_once(tmp_short: Path) -> None:
    """A protected key file asks once, however much it opens; a wrong passphrase that was given is NoKey, unasked."""
    key, message = protected(tmp_short)
    asked: list[str] = []

    def ask(question: str) -> bytes:
        asked.append(question)
        return b"correct horse"

    with access.private_key(key, ask) as decrypt:
        assert [decrypt(message), decrypt(message)] == [b"run keys"] * 2
    assert len(asked) == 1
    with access.private_key(key, ask, b"battery staple") as decrypt, pytest.raises(NoKey):
        decrypt(message)
    assert len(asked) == 1


@pytest.mark.parametrize("wrong", [2, 3])
def test_a_wrong_passphrase_is_called_that(tmp_short: Path, wrong: int) -> None:
    """A wrong answer is told and asked for again, three times in all; then it is NoKey, in these words."""
    key, message = protected(tmp_short)
    answers = [*[b"battery staple"] * wrong, b"correct horse"]
    asked: list[str] = []

    def ask(question: str) -> bytes:
        asked.append(question)
        return answers.pop(0)

    with access.private_key(key, ask) as decrypt:
        if wrong < 3:
            assert decrypt(message) == b"run keys"
        else:
            with pytest.raises(NoKey, match="the passphrase is wrong"):
                decrypt(message)
    assert len(asked) == 3 and "wrong" not in asked[0] and "is wrong" in asked[1]


def test_nobody_is_asked_for_a_key_without_passphrase(lab: HostLab, tmp_short: Path) -> None:
    """An unprotected key that does not open a message is NoKey at once, without a question."""

    def ask(question: str) -> bytes:
        raise AssertionError(question)

    _, message = protected(tmp_short)
    with access.private_key(lab.key, ask) as decrypt:
        with pytest.raises(NoKey):
            decrypt(message)
        with gpg.ephemeral_keyring(lab.key.read_bytes()) as own:
            assert decrypt(own.encrypt(b"mine", [key.fingerprint for key in own.keys() if key.has_secret])) == b"mine"

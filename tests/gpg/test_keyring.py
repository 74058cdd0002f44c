"""Home folders of GnuPG: keys, recipients, agents."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opskit.errors import Damaged, NoKey, OpskitError, UsageError
from opskit.gpg import KeyInfo, Keyring, UnknownSigner, folders, usable_recipients, verify, write_public_keyring
from opskit.gpg.listing import parse_listing
from opskit.gpg.program import find_program
from tests.gpg.keys import RUN_KEY, Owner, agents_of, dated_key, private_folder, raw_gpg

GOLDEN = Path(__file__).parent.parent / "golden"
TEXT = b'{"run": "secret"}\n'


def test_a_new_key_signs_encrypts_and_never_expires(host: Owner) -> None:
    """A generated key is Ed25519 with an encryption subkey, unprotected by dates, its private half at hand."""
    (key,) = host.keyring.keys()
    assert key.fingerprint == host.fingerprint and len(key.fingerprint) == 40
    assert (key.user_id, key.algorithm, key.expires) == ("host <host@example.org>", "ed25519", None)
    assert key.can_encrypt and key.can_sign and key.has_secret and not key.revoked


def test_a_new_key_asks_for_packets_that_every_gpg_reads(host: Owner) -> None:
    """A generated key announces modification detection and nothing else, whatever this gpg prefers by itself."""
    packets = raw_gpg(host.home, "--list-packets", data=host.keyring.export_public([host.fingerprint])).decode()
    lines = [line for line in packets.splitlines() if "(features:" in line]
    features = [int(line.rpartition(": ")[2].rstrip(")"), 16) for line in lines]
    assert features and all(each & 1 and not each & 2 for each in features)  # RFC 4880bis: 2 is OCB


def test_ocb_of_a_newer_gpg(tmp_short: Path) -> None:
    """What gpg 2.4.4 wrote to a key that asks for OCB opens with any gpg opskit takes; a flipped bit is noticed."""
    with Keyring(private_folder(tmp_short / "ocb")) as keyring:
        keyring.import_keys((GOLDEN / "ocb.key.asc").read_bytes())
        message = dearmored(keyring, (GOLDEN / "ocb.message.asc").read_bytes())
        assert keyring.decrypt(message).payload == b"protected by OCB"
        for position in range(-40, 0):
            spoilt = bytearray(message)
            spoilt[position] ^= 1
            with pytest.raises(Damaged):
                keyring.decrypt(bytes(spoilt))


def dearmored(keyring: Keyring, text: bytes) -> bytes:
    assert keyring.home is not None
    return raw_gpg(keyring.home, "--dearmor", data=text)


def test_the_home_is_private(host: Owner) -> None:
    """The home folder has mode 0700."""
    assert stat.S_IMODE(host.home.stat().st_mode) == 0o700


def test_a_host_may_be_given_a_second_key_of_its_name(keyring: Keyring) -> None:
    """Generating twice with one user id gives two keys."""
    assert keyring.generate("host") != keyring.generate("host")
    assert len(keyring.keys()) == 2


@pytest.mark.parametrize("user_id", ["", "  ", "two\nlines", "bell\a"])
def test_a_user_id_is_one_line(keyring: Keyring, user_id: str) -> None:
    """A user id that could smuggle in a second line is refused."""
    with pytest.raises(UsageError):
        keyring.generate(user_id)


def test_a_user_id_of_any_letters_is_kept(keyring: Keyring) -> None:
    """Colons, umlauts and a leading dash survive generating and listing."""
    keyring.generate("Jürgen: Ops, Köln 京 \\x3a <j@example.org>")
    assert keyring.keys()[0].user_id == "Jürgen: Ops, Köln 京 \\x3a <j@example.org>"


def test_an_absent_home_has_no_keys(tmp_path: Path) -> None:
    """Listing a home that is not there gives nothing, and makes nothing."""
    assert Keyring(tmp_path / "none").keys() == []
    assert list(tmp_path.iterdir()) == []


def test_keys_travel(host: Owner, keyring: Keyring) -> None:
    """Exported keys import elsewhere under the same fingerprint, the private half only if it was exported."""
    public = host.keyring.export_public([host.fingerprint])
    assert keyring.import_keys(public) == [host.fingerprint]
    assert not keyring.keys()[0].has_secret
    assert keyring.import_keys(host.keyring.export_secret(host.fingerprint)) == [host.fingerprint]
    assert keyring.keys()[0].has_secret
    assert verify(keyring.sign(TEXT, host.fingerprint), host.public_file).payload == TEXT


def test_junk_is_no_key(keyring: Keyring) -> None:
    """Importing what is no key is an error."""
    with pytest.raises(Damaged):
        keyring.import_keys(b"junk")


def test_a_listing_is_never_stale(keyring: Keyring, host: Owner, recipient: Owner) -> None:
    """Keys are listed once while nothing changes, and anew whoever changed them: opskit or another gpg."""

    def listed() -> list[str]:
        return [key.fingerprint for key in keyring.keys()]

    assert listed() == []
    keyring.import_keys(host.keyring.export_public([host.fingerprint]))
    assert listed() == [host.fingerprint]
    raw_gpg(keyring_home(keyring), "--import", data=recipient.keyring.export_public([recipient.fingerprint]))
    assert listed() == [host.fingerprint, recipient.fingerprint]
    raw_gpg(keyring_home(keyring), "--delete-keys", host.fingerprint)
    assert listed() == [recipient.fingerprint]
    own = keyring.generate("own <own@example.org>")
    assert listed() == [recipient.fingerprint, own]
    assert [key.has_secret for key in keyring.keys()] == [False, True]


def test_keys_may_be_listed_ahead(host: Owner, tmp_path: Path) -> None:
    """A listing begun early gives the same keys, and one that fails leaves the error to whoever needs the keys."""
    with Keyring(host.home) as keyring:
        keyring.begin_listing()
        assert keyring.keys() == host.keyring.keys()
    broken = Keyring(tmp_path / "home")
    broken.create()
    (tmp_path / "home" / "pubring.kbx").mkdir()
    with broken:
        broken.begin_listing()
        with pytest.raises(OpskitError):
            broken.keys()


def test_no_name_exports_no_key(host: Owner) -> None:
    """gpg takes no name for every name: then nothing is given out."""
    assert host.keyring.export_public([]) == b""


def keyring_home(keyring: Keyring) -> Path:
    """Its folder, which it has."""
    assert keyring.home is not None
    return keyring.home


def test_a_key_that_is_not_there_cannot_be_exported(host: Owner, recipient: Owner) -> None:
    """Exporting an unknown key is an error, not an empty file."""
    with pytest.raises(NoKey):
        host.keyring.export_public([host.fingerprint, recipient.fingerprint])
    with pytest.raises(NoKey):
        host.keyring.export_secret(recipient.fingerprint)


def test_every_recipient_opens_and_nobody_else(host: Owner, recipient: Owner, keyring: Keyring) -> None:
    """A message to two recipients opens with either private key, and with no other."""
    third = keyring.generate("third")
    for owner in (host, recipient):
        keyring.import_keys(owner.keyring.export_public([owner.fingerprint]))
    message = keyring.encrypt(TEXT, [host.fingerprint, recipient.fingerprint])
    assert message.startswith(b"-----BEGIN PGP MESSAGE-----")
    assert host.keyring.decrypt(message) == (TEXT, None) == recipient.keyring.decrypt(message)
    with pytest.raises(NoKey):
        keyring.decrypt(message)
    assert third not in (host.fingerprint, recipient.fingerprint)


@settings(max_examples=6, deadline=None)
@given(st.binary(max_size=20_000))
def test_any_bytes_come_back(host: Owner, data: bytes) -> None:
    """Whatever is encrypted to a key comes back the same."""
    assert host.keyring.decrypt(host.keyring.encrypt(data, [host.fingerprint])).payload == data


def test_only_full_fingerprints_choose_a_key(host: Owner) -> None:
    """Names and short key ids, which may fit a stranger's key, are refused."""
    for name in ("host", host.fingerprint[-16:], "-" + host.fingerprint[1:]):
        with pytest.raises(UsageError):
            host.keyring.encrypt(TEXT, [name])
        with pytest.raises(UsageError):
            host.keyring.sign(TEXT, name)


def test_no_recipient_is_an_error(host: Owner) -> None:
    """Encrypting to nobody, or to an unknown key, is NoKey."""
    for recipients in ([], ["A" * 40]):
        with pytest.raises(NoKey):
            host.keyring.encrypt(TEXT, recipients)


def test_signing_without_the_private_key_is_no_key(host: Owner, keyring: Keyring) -> None:
    """With the public half alone nothing can be signed."""
    keyring.import_keys(host.keyring.export_public([host.fingerprint]))
    with pytest.raises(NoKey):
        keyring.sign(TEXT, host.fingerprint)


def test_the_host_opens_its_own_index(host: Owner) -> None:
    """What is signed and encrypted to the host opens with its private key, and the signer is named."""
    name = host.fingerprint
    sealed = host.keyring.sign_and_encrypt(TEXT, signer=name, recipient=name, run_key=RUN_KEY)
    assert host.keyring.decrypt(sealed) == (TEXT, name)


def test_a_sealed_message_of_a_stranger_is_refused(host: Owner, recipient: Owner, keyring: Keyring) -> None:
    """A message encrypted to the host but signed by a key the host does not know is refused by name."""
    stranger = keyring.generate("stranger")
    keyring.import_keys(host.keyring.export_public([host.fingerprint]))
    sealed = keyring.sign_and_encrypt(TEXT, signer=stranger, recipient=host.fingerprint, run_key=RUN_KEY)
    with pytest.raises(UnknownSigner) as caught:
        host.keyring.decrypt(sealed)
    assert caught.value.unknown_signer == stranger


def test_unencrypted_messages_are_not_decrypted(host: Owner) -> None:
    """A plain literal and a signed text, which gpg -d opens with exit code 0, are no encrypted messages."""
    for message in (raw_gpg(host.home, "--store", data=TEXT), host.keyring.sign(TEXT, host.fingerprint), b"", b"junk"):
        with pytest.raises(Damaged):
            host.keyring.decrypt(message)


def test_a_damaged_message_is_refused(host: Owner) -> None:
    """A flipped bit in the body of an encrypted message is refused."""
    message = raw_gpg(host.home, "--encrypt", "-r", host.fingerprint, data=TEXT * 50)
    flipped = bytearray(message)
    flipped[-40] ^= 1
    with pytest.raises(Damaged):
        host.keyring.decrypt(bytes(flipped))


def test_a_protected_key_opens_with_its_passphrase_alone(tmp_path: Path, host: Owner) -> None:
    """A key with a passphrase is generated, exported, imported without a question, and opens with that alone."""
    with Keyring(private_folder(tmp_path / "safe")) as safe:
        fingerprint = safe.generate("safe", passphrase=b"correct horse \xc3\xa9")
        secret = safe.export_secret(fingerprint, passphrase=b"correct horse \xc3\xa9")
        message = safe.encrypt(TEXT, [fingerprint])
    with Keyring(private_folder(tmp_path / "again")) as again:
        assert again.import_keys(secret) == [fingerprint]
        with pytest.raises(NoKey):
            again.decrypt(message, passphrase=b"wrong")
        assert again.decrypt(message, passphrase=b"correct horse \xc3\xa9").payload == TEXT


def test_a_private_key_does_not_reach_the_log(host: Owner, keyring: Keyring, caplog: pytest.LogCaptureFixture) -> None:
    """Even at level DEBUG nothing of a private key is logged, though python-gnupg would."""
    with caplog.at_level(logging.DEBUG):
        secret = host.keyring.export_secret(host.fingerprint)
        keyring.import_keys(secret)
    assert "PRIVATE KEY" not in caplog.text
    assert secret.splitlines()[3].decode() not in caplog.text


def test_the_passphrase_is_in_no_argument_or_environment(tmp_path: Path) -> None:
    """While a key is made, exported and used, no process shows its passphrase."""
    passphrase = b"never-to-be-seen-5b1f"
    seen = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for entry in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        seen.append((entry / name).read_bytes())
                    except OSError:
                        continue

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with Keyring(private_folder(tmp_path / "safe")) as safe:
            fingerprint = safe.generate("safe", passphrase=passphrase)
            safe.export_secret(fingerprint, passphrase=passphrase)
            safe.decrypt(safe.encrypt(TEXT, [fingerprint]), passphrase=passphrase)
    finally:
        done.set()
        watcher.join()
    assert any(b"--quick-generate-key" in text for text in seen), "gpg was not seen: the test looked at nothing"
    assert not any(passphrase in text for text in seen)
    assert not any(passphrase in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_close_leaves_no_agent(keyring: Keyring, tmp_path: Path) -> None:
    """After close() the agent of the home is gone, however it was started, and the home opens again."""
    fingerprint = keyring.generate("host")
    assert agents_of(tmp_path / "home")
    keyring.close()
    assert not agents_of(tmp_path / "home")
    keyring.start_agent()
    keyring.sign(TEXT, fingerprint)
    assert len(agents_of(tmp_path / "home")) == 1
    keyring.close()
    assert not agents_of(tmp_path / "home")
    keyring.close()


def test_close_touches_only_its_own_agent(host: Owner, keyring: Keyring) -> None:
    """Closing one home leaves the agent of another alone."""
    host.keyring.sign(TEXT, host.fingerprint)
    before = agents_of(host.home)
    keyring.generate("other")
    keyring.close()
    assert before and agents_of(host.home) == before


def test_another_command_may_end_the_agent_meanwhile(
    host: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature that failed because somebody else ended the shared agent under it is made by the next one."""
    marker = tmp_path / "failed"
    (tmp_path / "gpg").write_text(
        f'#!/bin/sh\n[ -e {marker} ] && exec {find_program("gpg")} "$@"\n'
        f"touch {marker}\necho 'gpg: signing failed: End of file' >&2\nexit 2\n"
    )
    (tmp_path / "gpg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    find_program.cache_clear()
    try:
        signed = host.keyring.sign(TEXT, host.fingerprint)
    finally:
        find_program.cache_clear()
    assert marker.exists()
    assert verify(signed, host.public_file).payload == TEXT


def test_a_long_path_works(tmp_path: Path, tmp_short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home whose path is too long for a socket works, and nothing made for it is left behind."""
    home = tmp_path / ("long" * 20) / ("path" * 12) / "home"
    assert len(str(home)) > 120
    # Where the system has them, other processes make and remove folders of that name at any time.
    monkeypatch.setattr(folders, "candidates", lambda: [tmp_short])
    with Keyring(home) as long:
        fingerprint = long.generate("long")
        assert long.decrypt(long.encrypt(TEXT, [fingerprint])).payload == TEXT
        write_public_keyring(long.export_public([fingerprint]), home / "long.pub")
        assert verify(long.sign(TEXT, fingerprint), home / "long.pub").fingerprint == fingerprint
        assert list(tmp_short.iterdir())
    assert not list(tmp_short.iterdir())
    assert not agents_of(home)


def test_several_threads_share_a_key_ring(tmp_path: Path) -> None:
    """Signatures and encryptions from several threads, with a long path and a cold agent, all succeed."""
    home = tmp_path / ("long" * 25) / "home"
    with Keyring(home) as shared:
        fingerprint = shared.generate("shared")
        shared.close()
        shared.start_agent()

        def work(number: int) -> bytes:
            return shared.decrypt(shared.encrypt(b"%d" % number, [fingerprint])).payload

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, range(8))) == [b"%d" % number for number in range(8)]
    assert not agents_of(home)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k,mode=0700", "tmpfs", place], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount program")
def test_a_full_disk_does_not_stop_a_signature(small_disk: Path, tmp_path: Path) -> None:
    """Signing, encrypting, listing and decrypting go on when the disk of the home is full, with a cold agent too."""
    with Keyring(small_disk / "home") as full:
        fingerprint = full.generate("full")
        write_public_keyring(full.export_public([fingerprint]), tmp_path / "full.pub")
        full.close()
        _fill(small_disk)
        assert verify(full.sign(TEXT, fingerprint), tmp_path / "full.pub").payload == TEXT
        assert full.decrypt(full.encrypt(TEXT, [fingerprint])).payload == TEXT
        assert full.keys()[0].fingerprint == fingerprint


def test_expired_and_revoked_recipients_are_left_out(tmp_path: Path) -> None:
    """Of four recipients the expired, the revoked and the unknown are named with a reason, the valid one is used."""
    with Keyring(tmp_path / "home") as keyring:
        valid = keyring.generate("valid")
        expired = dated_key(tmp_path / "home", "expired", "20200101", "1y")
        revoked = keyring.generate("revoked")
        text = (tmp_path / "home" / "openpgp-revocs.d" / f"{revoked}.rev").read_bytes()
        raw_gpg(tmp_path / "home", "--import", data=text.replace(b":-----BEGIN", b"-----BEGIN"))
        keys = keyring.keys()
        now = max(key.created for key in keys) + 1
        good, bad = usable_recipients(keys, [valid, expired, revoked, "A" * 40], now)
        assert good == [valid]
        assert [line.split(": ")[1] for line in bad] == [
            "expired on 2020-12-31",
            "revoked by its owner",
            "no such public key on this host",
        ]
        with pytest.raises(NoKey):
            keyring.encrypt(TEXT, [valid, expired])
        assert keyring.decrypt(keyring.encrypt(TEXT, good)).payload == TEXT
        assert usable_recipients(keys, [expired], 1600000000.0) == ([expired], [])


def test_an_encryption_subkey_that_expires_counts(tmp_path: Path) -> None:
    """A key whose only encryption subkey expires is unusable from that day, though its primary key lives on."""
    with Keyring(tmp_path / "home") as keyring:
        keyring.create()
        home = tmp_path / "home"
        raw_gpg(home, "--quick-gen-key", "sub", "ed25519", "cert,sign", "never", secret=b"")
        primary = keyring.keys()[0]
        assert not primary.can_encrypt
        assert usable_recipients([primary], [primary.fingerprint], primary.created)[0] == []
        raw_gpg(home, "--quick-add-key", primary.fingerprint, "cv25519", "encr", "1d", secret=b"")
        key = keyring.keys()[0]
        assert key.expires is not None and key.can_encrypt
        assert usable_recipients([key], [key.fingerprint], key.expires - 1)[0] == [key.fingerprint]
        assert usable_recipients([key], [key.fingerprint], key.expires)[0] == []


def test_fingerprints_may_be_written_with_spaces_in_small_letters(host: Owner) -> None:
    """A fingerprint as a person copies it from gpg's output, with spaces or 0x, is understood, and counted once."""
    name = host.fingerprint
    forms = [" ".join(name[i : i + 4] for i in range(0, 40, 4)), name.lower(), f"0x{name.lower()}"]
    assert usable_recipients(host.keyring.keys(), forms, host.keyring.keys()[0].created + 1) == ([name], [])


def test_a_disabled_key_cannot_be_encrypted_to() -> None:
    """A key that its keeper disabled counts as having no key to encrypt to."""
    listing = (
        "pub:u:255:22:61627FDB5DED8442:1795299130:::u:::scESCD:::::ed25519:::0:\n"
        "fpr:::::::::1C6B9EF777A12CBCF89430EC61627FDB5DED8442:\n"
        "uid:u::::1795299130::2C0B::name::::::::::0:\n"
        "sub:u:255:18:B8DF92E4F9F6A649:1795299130::::::e:::::cv25519::\n"
    )
    (key,) = parse_listing(listing, ())
    assert isinstance(key, KeyInfo) and not key.can_encrypt


def test_a_key_of_the_future_is_named_as_such(host: Owner) -> None:
    """With a clock set before the key's birth the reason names the clock."""
    good, bad = usable_recipients(host.keyring.keys(), [host.fingerprint], 1_000_000_000)
    assert good == [] and "clock" in bad[0]
    unready = host.keyring.keys()[0]._replace(can_encrypt=False)  # as gpg shows it when its own clock is behind
    assert "clock" in usable_recipients([unready], [host.fingerprint], 1_000_000_000)[1][0]


def test_too_much_to_verify_is_too_much_to_sign(host: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What verification would refuse for its size is refused when it is signed."""
    monkeypatch.setattr(sys.modules[Keyring.__module__], "LARGEST_PAYLOAD", 1000)
    with pytest.raises(OpskitError, match="at most 1000 bytes"):
        host.keyring.sign(bytes(1001), host.fingerprint)
    host.keyring.sign(bytes(1000), host.fingerprint)


def test_the_users_own_home_is_used_and_left_alone(host: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home of its own a key ring is the user's: it opens messages, and close() leaves the agent running."""
    monkeypatch.setenv("GNUPGHOME", str(host.home))
    message = host.keyring.encrypt(TEXT, [host.fingerprint])
    with Keyring(None) as own:
        assert own.decrypt(message).payload == TEXT
        assert own.keys() == host.keyring.keys()
    # gpg names the folder in the agent's arguments only where it is not the usual one: the socket answers in both.
    assert (host.home / "S.gpg-agent").exists() or agents_of(host.home)


def _fill(place: Path) -> None:
    with open(place / "fill", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))

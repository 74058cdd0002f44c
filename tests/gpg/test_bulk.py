"""Symmetric messages under a run key."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opskit.errors import Damaged, Forged, NoKey, UsageError
from opskit.gpg import Scratch, decrypt_symmetric, encrypt_symmetric, open_signed
from opskit.gpg.bulk import require_decrypted
from opskit.gpg.program import Finished, MemoryFile
from tests.gpg.keys import RUN_KEY, Owner, encrypted, raw_gpg

SMALL = b"eleven chunks of nothing much"


def decrypted(message: bytes, run_key: bytes = RUN_KEY) -> bytes:
    with decrypt_symmetric(message, run_key) as file:
        return file.read()


def test_a_scratch_file_holds_the_last_text_alone() -> None:
    """Texts of any order of lengths come back whole from one file, and a failure between them does no harm."""
    scratch = Scratch()
    texts = [os.urandom(length) for length in (300_000, 5, 4096, 299_999, 1 << 20, 1)]
    for text in texts:
        found = decrypt_symmetric(encrypted(text, RUN_KEY), RUN_KEY, scratch)
        assert found is scratch and scratch.size() == len(text)
        assert scratch.read() == text == bytes(scratch.mapped()) == scratch.content()
        with pytest.raises(Damaged):
            decrypt_symmetric(b"no message", RUN_KEY, scratch)
    assert scratch.size() == 0 and not scratch.mapped()


def test_a_message_written_to_the_memory_of_a_scratch_file_is_that_message_alone() -> None:
    """Whatever larger or smaller message lay there before, in either way, and though nothing but memory was written."""
    given = Scratch()
    for size in (100, 5_000_000, 17, 0, 4_999_999):
        text = bytes(size)
        message = encrypted(text, RUN_KEY)
        given.room(len(message))[:] = message
        assert given.size() == len(message) and given.content() == message
        with decrypt_symmetric(given, RUN_KEY) as file:
            assert file.read() == text
        given.fill(message[:-1])
        assert given.content() == message[:-1]
    assert len(given.room(0)) == given.size() == 0


def test_a_message_in_a_scratch_file_is_that_message_alone() -> None:
    """A program that reads a reused file is given nothing of what lay there before."""
    given = Scratch()
    for text in (SMALL * 20_000, b"", SMALL):
        given.fill(encrypted(text, RUN_KEY))
        with decrypt_symmetric(given, RUN_KEY) as file:
            assert file.read() == text
        given.fill(text)
        assert given.size() == len(text)
        with encrypt_symmetric(given, RUN_KEY) as file:
            assert decrypted(file.content()) == text


@pytest.fixture(scope="module")
def message() -> bytes:
    return encrypted(SMALL, RUN_KEY)


@settings(max_examples=12, deadline=None)
@given(st.binary(max_size=70_000))
def test_any_bytes_come_back(data: bytes) -> None:
    """What is encrypted under a run key decrypts to the same bytes, whatever they are."""
    assert decrypted(encrypted(data, RUN_KEY)) == data


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8191, 8192, 65536])
def test_sizes_at_the_edges_of_packets(size: int) -> None:
    """Sizes around the block and partial-length edges of OpenPGP come back whole."""
    data = os.urandom(size)
    assert decrypted(encrypted(data, RUN_KEY)) == data


def test_forty_megabytes() -> None:
    """A message larger than any pipe or pack comes back whole."""
    data = os.urandom(1 << 20) * 40
    assert decrypted(encrypted(data, RUN_KEY)) == data


@pytest.mark.parametrize("kind", [bytearray, memoryview], ids=["bytearray", "memoryview"])
def test_any_kind_of_buffer(kind: type[bytearray | memoryview]) -> None:
    """Buffers other than bytes are encrypted like bytes."""
    data = os.urandom(100_000)
    assert decrypted(encrypted(kind(data), RUN_KEY)) == data


def test_the_message_is_plain_salted_aes256_without_compression(message: bytes) -> None:
    """The message is what the format says: AES-256, salted S2K by SHA-256, integrity check, no compression."""
    command = ["gpg", "--batch", "--homedir", "/nonexistent", "--no-keyring", "--list-packets"]
    listing = subprocess.run(
        [*command, "--passphrase", RUN_KEY.decode()], input=message, capture_output=True, check=False
    ).stdout.decode()
    assert "symkey enc packet: version 4, cipher 9, aead 0,s2k 1, hash 8" in listing.replace("0, s2k", "0,s2k")
    assert "mdc_method: 2" in listing and "literal data packet" in listing
    assert "compressed packet" not in listing


def test_a_wrong_run_key_is_no_key(message: bytes) -> None:
    """A run key of another run does not open a message, and the error says so."""
    with pytest.raises(NoKey):
        decrypted(message, b"f" * 64)


@pytest.mark.parametrize("run_key", [b"", b"f" * 63, b"F" * 64, b"f" * 65, b"f" * 64 + b"\n", b"g" * 64])
def test_only_a_run_key_is_taken_for_one(run_key: bytes, message: bytes) -> None:
    """A key of another form is refused before anything is encrypted, and is not shown."""
    with pytest.raises(UsageError) as caught:
        encrypt_symmetric(b"x", run_key)
    assert "fff" not in str(caught.value).lower()
    with pytest.raises(UsageError):
        decrypted(message, run_key)


def test_every_truncation_is_refused(message: bytes) -> None:
    """No proper beginning of a message yields a plaintext."""
    for size in range(0, len(message), 3):
        with pytest.raises((Damaged, NoKey)):
            decrypted(message[:size])


def test_every_flipped_byte_is_refused_or_harmless(message: bytes) -> None:
    """A flipped bit anywhere gives an error or, in what is not the text, the very same text: never another one."""

    def judge(position: int) -> bool:
        flipped = bytearray(message)
        flipped[position] ^= 1 << position % 8
        try:
            return decrypted(bytes(flipped)) == SMALL
        except (Damaged, NoKey):
            return True

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(judge, range(len(message))))


@pytest.mark.parametrize("tail", [b"\0", b"garbage", b"\xcb\x07b\0\0\0\0\0x"], ids=["zero", "text", "literal"])
def test_nothing_may_follow(message: bytes, tail: bytes) -> None:
    """A message followed by anything, another literal too, is refused."""
    with pytest.raises((Damaged, NoKey)):
        decrypted(message + tail)


def test_two_messages_are_not_one(message: bytes) -> None:
    """Two whole messages, one after the other, are refused."""
    with pytest.raises((Damaged, NoKey)):
        decrypted(message + message)


def test_an_unencrypted_literal_is_refused(host: Owner) -> None:
    """A literal that nobody encrypted, which gpg -d prints with exit code 0, is refused."""
    with pytest.raises(Damaged):
        decrypted(raw_gpg(host.home, "--store", data=SMALL))


def test_text_mode_is_refused(host: Owner) -> None:
    """A literal in text mode, whose line ends gpg would change, is refused although the key is right."""
    options = ["--textmode", "--s2k-mode", "1", "--cipher-algo", "AES256", "-z", "0", "--symmetric"]
    with pytest.raises(Damaged):
        decrypted(raw_gpg(host.home, *options, data=b"a\n", secret=RUN_KEY))


def test_a_compressed_message_cannot_fill_the_memory(host: Owner) -> None:
    """A message under the right key that OpenPGP compression lets grow beyond its own size is refused."""
    options = ["--s2k-mode", "1", "--cipher-algo", "AES256", "-z", "9", "--symmetric"]
    message = raw_gpg(host.home, *options, data=bytes(8 << 20), secret=RUN_KEY)
    assert len(message) < 100_000
    with pytest.raises(Damaged):
        decrypted(message)


def test_a_weaker_cipher_is_refused(host: Owner) -> None:
    """A message under the right key but by another cipher than AES-256 is refused."""
    with pytest.raises(Damaged):
        decrypted(
            raw_gpg(host.home, "--s2k-mode", "1", "--cipher-algo", "AES", "--symmetric", data=b"a\n", secret=RUN_KEY)
        )


GOOD = [
    ["BEGIN_DECRYPTION"],
    ["DECRYPTION_INFO", "2", "9", "0"],
    ["PLAINTEXT", "62", "0", ""],
    ["DECRYPTION_OKAY"],
    ["GOODMDC"],
    ["END_DECRYPTION"],
]


@pytest.mark.parametrize(
    "status",
    [
        [],
        [GOOD[2]],
        [GOOD[2], *GOOD[:2], *GOOD[3:]],
        [*GOOD[:2], *GOOD[3:], GOOD[2]],
        [*GOOD[:3], *GOOD[2:]],
        [*GOOD[:2], *GOOD[3:]],
        [line for line in GOOD if line != ["GOODMDC"]],
        [line for line in GOOD if line != ["DECRYPTION_OKAY"]],
        [*GOOD, *GOOD],
        [*GOOD, ["BADMDC"]],
        [["DECRYPTION_INFO", "2", "7", "0"] if line[0] == "DECRYPTION_INFO" else line for line in GOOD],
        [["DECRYPTION_INFO", "0", "9", "2"] if line[0] == "DECRYPTION_INFO" else line for line in GOOD],
        [["PLAINTEXT", "74", "0", ""] if line[0] == "PLAINTEXT" else line for line in GOOD],
    ],
)
def test_only_one_sequence_of_status_lines_is_good(status: list[list[str]]) -> None:
    """With exit code 0 too, any report but that of one AES-256 message around one binary literal is refused."""
    with MemoryFile() as output:
        require_decrypted(Finished(0, GOOD, output, ""), literals=1)
        with pytest.raises(Damaged):
            require_decrypted(Finished(0, status, output, ""), literals=1)
        with pytest.raises(Damaged):
            require_decrypted(Finished(2, GOOD, output, ""), literals=1)


def test_the_run_key_is_nowhere_to_be_seen_while_gpg_runs() -> None:
    """No process shows the run key in its arguments or environment while it encrypts."""
    run_key = os.urandom(32).hex().encode()
    seen: list[bytes] = []
    children = 0
    worker = threading.Thread(target=encrypted, args=(bytes(64 << 20), run_key))
    worker.start()
    while worker.is_alive():
        for process in _children():
            children += 1
            seen.append(_shown(process))
        time.sleep(0.002)
    worker.join()
    assert children, "no gpg was seen: the test looked at nothing"
    assert all(run_key not in text for text in seen)


def _children() -> list[str]:
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split() + [
        child
        for task in os.listdir("/proc/self/task")
        for child in _read(Path(f"/proc/self/task/{task}/children")).decode().split()
    ]


def _shown(process: str) -> bytes:
    return _read(Path(f"/proc/{process}/cmdline")) + _read(Path(f"/proc/{process}/environ"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_no_descriptor_is_left_open(message: bytes) -> None:
    """Good and bad calls alike leave no descriptor behind."""
    before = sorted(os.listdir("/proc/self/fd"))
    decrypted(message)
    for bad in (message[:-1], b"", message + b"x"):
        with pytest.raises(Forged):
            decrypted(bad)
    with pytest.raises(NoKey):
        decrypted(message, b"0" * 64)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_many_threads_at_once() -> None:
    """Calls from several threads do not disturb one another."""

    def round_trip(number: int) -> bool:
        data = os.urandom(100_000 + number)
        run_key = os.urandom(32).hex().encode()
        return decrypted(encrypted(data, run_key), run_key) == data

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(round_trip, range(16)))


def test_nothing_is_made_in_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bulk work makes no ~/.gnupg and needs none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GNUPGHOME", raising=False)
    assert decrypted(encrypted(SMALL, RUN_KEY)) == SMALL
    assert list(tmp_path.iterdir()) == []


def test_an_index_object_opens_with_the_run_key_alone(host: Owner) -> None:
    """What is signed and encrypted to the host opens with the run key, and its signer is known."""
    keyring, fingerprint, public_file = host
    sealed = keyring.sign_and_encrypt(SMALL, signer=fingerprint, recipient=fingerprint, run_key=RUN_KEY)
    opened = open_signed(sealed, RUN_KEY, public_file)
    assert (opened.payload, opened.fingerprint) == (SMALL, fingerprint)
    with pytest.raises((NoKey, Damaged)):  # a wrong key may yield what looks like a session key
        open_signed(sealed, b"0" * 64, public_file)


def test_an_unsigned_index_object_is_refused(host: Owner, message: bytes) -> None:
    """A message under the run key that nobody signed does not pass for an index object."""
    with pytest.raises(Damaged):
        open_signed(message, RUN_KEY, host.public_file)

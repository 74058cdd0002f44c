"""Opening sealed keys: no more than it takes, and nobody is asked twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from opskit.errors import NoKey
from opskit.gpg import Keyring, ephemeral_keyring
from opskit.operations.unsealing import Unsealing
from opskit.repository.sealed_keys import SealedKey

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyring]:
    """A key ring with the keys of three recipients."""
    with Keyring(tmp_path_factory.mktemp("g")) as keyring:
        for name in "abc":
            keyring.generate(name)
        yield keyring


@pytest.fixture(scope="module")
def chain(ring: Keyring) -> list[SealedKey]:
    """The first is sealed to the second, and that to the third."""
    first, second, third = (key.fingerprint for key in ring.keys())
    return [sealed(ring, first, second, 0), sealed(ring, second, third, 1)]


@pytest.fixture
def hand(ring: Keyring) -> Iterator[Hand]:
    """The third key."""
    with ephemeral_keyring(ring.export_secret(ring.keys()[2].fingerprint)) as keyring:
        yield Hand(lambda data: keyring.decrypt(data, passphrase=b"").payload)


class Hand:
    """Opens, and counts how often it was asked."""

    def __init__(self, decrypt: Callable[[bytes], bytes]) -> None:
        self._decrypt, self.asked = decrypt, list[bytes]()

    def __call__(self, data: bytes) -> bytes:
        self.asked.append(data)
        return self._decrypt(data)


def sealed(ring: Keyring, recipient: str, heir: str, day: int) -> SealedKey:
    message = ring.encrypt(ring.export_secret(recipient), [heir])
    return SealedKey("5e" * 16, "h", NOW + timedelta(days=day), recipient, (heir,), message, f"evidence/{day}")


def message(ring: Keyring, number: int) -> bytes:
    return ring.encrypt(b"text", [ring.keys()[number].fingerprint])


def never() -> list[SealedKey]:
    raise AssertionError("nothing needed it")


def test_without_need_nothing_is_read(ring: Keyring, hand: Hand) -> None:
    """What the key at hand opens costs one question."""
    with Unsealing(never) as unsealing:
        assert unsealing.beside(hand)(message(ring, 2)) == b"text"
    assert len(hand.asked) == 1


def test_no_more_than_it_takes(ring: Keyring, hand: Hand, chain: list[SealedKey]) -> None:
    """The link that opens a message is opened once, and the next only when something needs it, by that one."""
    with Unsealing(lambda: chain) as unsealing:
        decrypt = unsealing.beside(hand)
        second, first = message(ring, 1), message(ring, 0)
        assert decrypt(second) == decrypt(second) == b"text"
        assert hand.asked == [second, chain[1].sealed, second]
        assert decrypt(first) == b"text" and hand.asked[3:] == [first]


@pytest.mark.parametrize("turn", [1, -1])
def test_the_order_does_not_matter(ring: Keyring, hand: Hand, chain: list[SealedKey], turn: int) -> None:
    """Where clocks were off, a link that comes before its opener is tried again with that one."""
    with Unsealing(lambda: chain[::turn]) as unsealing:
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(unsealing.beside(hand), [message(ring, 0)] * 4)) == {b"text"}
        assert len(unsealing.open_all(hand)) == 2
        ring_home = unsealing._ring and unsealing._ring.home
    assert ring_home is not None and not ring_home.exists(), "they are gone with the end"
    assert max(hand.asked.count(each.sealed) for each in chain) == 1


def test_what_nothing_opens_is_told_as_before(ring: Keyring, hand: Hand, chain: list[SealedKey]) -> None:
    """The error is that of the key at hand, and no sealed key is tried again."""
    with Unsealing(lambda: chain[:1]) as unsealing:
        for _ in range(2):
            with pytest.raises(NoKey, match="No secret key"):
                unsealing.beside(hand)(message(ring, 0))
    assert hand.asked.count(chain[0].sealed) == 1


def test_a_key_that_is_locked_is_not_asked_again(ring: Keyring, chain: list[SealedKey]) -> None:
    """Neither for a message of its own, nor for one sealed key after the other."""

    def locked(data: bytes) -> bytes:
        raise NoKey("no key at hand opens the message: Bad passphrase" if data in own else "No secret key")

    own = [chain[0].sealed, chain[1].sealed, message(ring, 2)]
    hand = Hand(locked)
    with Unsealing(lambda: chain) as unsealing:
        for each, asked in ((own[2], 1), (message(ring, 0), 3), (message(ring, 0), 4)):
            with pytest.raises(NoKey):
                unsealing.beside(hand)(each)
            assert len(hand.asked) == asked


def test_a_sealed_key_that_is_another_is_not_used(ring: Keyring, hand: Hand, chain: list[SealedKey]) -> None:
    """What is in it must be the private key of whom it names."""
    first, second, third = (key.fingerprint for key in ring.keys())
    lying = SealedKey("", "h", NOW, first, (third,), ring.encrypt(ring.export_secret(second), [third]), "x")
    torn = SealedKey("", "h", NOW, first, (third,), ring.encrypt(b"x", [third]), "y")
    with Unsealing(lambda: [lying, torn]) as unsealing:
        assert unsealing.open_all(hand) == []
        with pytest.raises(NoKey):
            unsealing.beside(hand)(message(ring, 0))

"""Canonical JSON and the grammar of object names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit import encoding
from opskit.errors import Damaged
from opskit.repository import names

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(values)
def test_what_is_encoded_decodes(value: object) -> None:
    """Any JSON value survives, surrogates aside."""
    assert encoding.decode(encoding.encode(value)) == value


@given(st.dictionaries(st.text(), st.integers(0, 9)))
def test_one_value_has_one_encoding(value: dict[str, int]) -> None:
    """The order of insertion does not show."""
    assert encoding.encode(dict(reversed(value.items()))) == encoding.encode(value)


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b"{'a': 1}", b"\xff", b"[1,]"])
def test_what_is_no_json(data: bytes) -> None:
    """Anything else is Damaged, not a ValueError."""
    with pytest.raises(Damaged):
        encoding.decode(data)


@pytest.mark.parametrize("data", [b"[]", b"1", b'"x"', b"null"])
def test_what_is_no_object(data: bytes) -> None:
    """Where an object is expected, other JSON is Damaged and the message names what it was for."""
    with pytest.raises(Damaged, match="tree root"):
        encoding.decode_object(data, what="tree root")


@given(digests)
def test_every_name_carries_its_digest(digest: str) -> None:
    """`digest_in` is the inverse of all the functions that make names."""
    when = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
    made = [names.key(digest), names.pack(digest), names.index(digest), names.packlist(digest)]
    for name in [*made, names.snapshot(when, "app-db_2", digest)]:
        assert names.digest_in(name) == digest


@pytest.mark.parametrize(
    "name",
    [
        "opskit.json", "packs/00/" + "ab" * 32, "packs/ab/" + "AB" * 32, "packs/ab/" + "ab" * 31, "keys/" + "ab" * 32,
        "../packs/ab/" + "ab" * 32, "packs/ab/" + "ab" * 32 + "\n",
        "snapshots/20261121T020000Z-A-" + "ab" * 32 + ".gpg",
        "snapshots/x-" + "ab" * 32 + ".gpg", "quarantine/" + "ab" * 32, "",
    ],
)  # fmt: skip
def test_what_is_no_name(name: str) -> None:
    """Fixed objects and malformed names have no digest; a pack's folder must fit its name."""
    assert names.digest_in(name) is None


@given(st.integers(0, 2**32), st.integers(-14, 14))
def test_times_are_utc(seconds: int, hours: int) -> None:
    """A time is written in UTC to the second, whatever zone it came in."""
    local = datetime.fromtimestamp(seconds, timezone(timedelta(hours=hours)))
    assert datetime.strptime(names.utc(local), "%Y%m%dT%H%M%S%z") == local


def test_sha256_is_the_one_everybody_has() -> None:
    """The vector of FIPS 180-4."""
    assert names.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

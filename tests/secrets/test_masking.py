"""Hiding secrets in output that comes in pieces."""

from __future__ import annotations

import base64
import itertools
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.secrets.masking import MASK, SHORTEST, Masker

VALUE = b"hunter2/Xq9+\xc3\xa9"
KEY = b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----\n"


def masked(values: list[bytes], *pieces: bytes) -> bytes:
    """What is shown of output that comes in these pieces."""
    masker = Masker(values)
    return b"".join([*map(masker.feed, pieces), masker.finish()])


@pytest.mark.parametrize(
    "written",
    [
        VALUE,
        json.dumps(VALUE.decode()).encode(),
        json.dumps(VALUE.decode(), ensure_ascii=False).encode(),
        quote(VALUE, safe="").encode(),
        VALUE.hex().encode(),
        base64.b64encode(VALUE),
        base64.b64encode(b"u:" + VALUE + b"!"),
        base64.b64encode(b"user:" + VALUE + b"!"),
        base64.urlsafe_b64encode(b"x" + VALUE + b"more"),
    ],
)
def test_forms_that_programs_write_are_hidden(written: bytes) -> None:
    """A value is hidden as it is, and in JSON, in URLs, in hexadecimal and in base64 wherever it begins there."""
    shown = masked([VALUE], b"before " + written + b" after")
    assert MASK in shown and shown.startswith(b"before ") and shown.endswith(b" after")
    assert VALUE[:-2] not in shown and base64.b64encode(VALUE)[4:12] not in shown


def test_each_long_line_of_a_value_is_hidden() -> None:
    """A key that a program shows line by line, indented or with other line ends, is hidden all the same."""
    shown = masked([KEY], b"".join(b"  " + line + b"\r\n" for line in KEY.splitlines()))
    assert b"MIIEv" not in shown and b"AQEFA" not in shown


def test_what_is_too_short_is_left() -> None:
    """A value of a few letters stands in innocent words: it is not hidden, and nothing else is."""
    assert masked([b"a" * (SHORTEST - 1)], b"a" * 100) == b"a" * 100


def test_overlapping_secrets_leave_no_end() -> None:
    """Where one secret begins within another, or goes on after it, all of both is hidden."""
    values = [b"abcdefgh", b"efghijkl", b"abcdefghijklmnop"]
    assert (
        masked(values, b"[abcdefghijkl] [abcdefghijklmnop] [abcdefgh]")
        == b"[" + MASK + b"] [" + MASK + b"] [" + MASK + b"]"
    )


text = st.lists(
    st.sampled_from([b"secret-one", b"one-secret", b"secret", b"-one", b"s", b"e", b"\n", b"-"]), max_size=20
)


@given(text.map(b"".join), st.lists(st.integers(0, 120), max_size=12))
def test_where_output_is_cut_changes_nothing(output: bytes, cuts: list[int]) -> None:
    """However output comes, the same is shown, and no secret in it."""
    values = [b"secret-one", b"one-secret", b"secret-one-secret"]
    places = sorted({0, len(output), *(cut for cut in cuts if cut < len(output))})
    pieces = [output[start:stop] for start, stop in itertools.pairwise(places)]
    shown = masked(values, *pieces)
    assert shown == masked(values, output)
    assert not any(value in shown for value in values)


def test_nothing_is_held_back_for_long() -> None:
    """A prompt without a line end is shown at once."""
    masker = Masker([b"hunter2-Xq9"])
    assert masker.feed(b"name: ") == b"name: "
    assert masker.feed(b"oh, hunter") == b"oh, "
    assert masker.feed(b"s ") == b"hunters "

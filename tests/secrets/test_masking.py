"""Hiding secrets in output that comes in pieces."""

from __future__ import annotations

import base64
import html
import itertools
import json
import shlex
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.secrets.masking import MASK, SHORTEST, Masker

VALUE = b"hunter2/Xq9+\xc3\xa9"
ODD = b"p!ss/w&r<d"
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


@pytest.mark.parametrize(
    "value", ["p%41ss\u00fc<d&e", 'a&lt;b"c\u00fc', "a\\x41bc%20\u00fc&", "a\\n%0a\\u0041&quot;\u00fc"]
)
def test_a_value_that_looks_as_if_it_held_escapes_is_hidden(value: str) -> None:
    """Of `%41` in a value nothing stays beside the mask, however the rest is written."""
    texts = (
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value),
        shlex.quote(value),
    )
    for text in (*texts, html.escape(value)):
        shown = masked([value.encode()], b"<", text.encode(), b">")
        assert shown.replace(b"'", b"").replace(b'"', b"").replace(b"\\", b"") == b"<" + MASK + b">", text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (KEY, base64.encodebytes(KEY).rstrip()),
        (KEY, base64.encodebytes(KEY).rstrip().replace(b"\n", b"\r\n")),
        (KEY, b"\n".join(KEY.hex().encode()[at : at + 60] for at in range(0, len(KEY) * 2, 60))),
        (KEY, json.dumps(KEY.decode())[1:-1].encode()),
        (ODD, b"p!ss%2Fw%26r%3Cd"),
        (ODD, b"p!ss%2fw%26r%3cd"),
        (ODD, b"p!ss/w\\u0026r\\u003cd"),
        (ODD, b"p!ss\\/w&r<d"),
        (ODD, b"p!ss\\x2fw\\x26r\\x3Cd"),
        (ODD, b"p!ss/w&amp;r&lt;d"),
        (ODD, b"p!ss/w&#38;r&#x3C;d"),
        (ODD, b"p\\!ss/w\\&r\\<d"),
        (b'it\'s "so"', b"it'\\''s \"so\""),
        (b'it\'s "so"', b"it\\'s\\ \\\"so"),
        (b"it's so+so", b"it%27s+so%2Bso"),
        (b"it's so<", html.escape("it's so<").encode()),
        (b"it's so<", b"it&apos;s so&lt;"),
        (b"it's so", shlex.quote("it's so").encode()[1:-1]),
        (b"two\nrows", b"two\\nrows"),
        ("caf\u00e9-\U0001f600!".encode(), b"caf\\u00E9-\\ud83d\\ude00!"),
        ("caf\u00e9-bar".encode(), b"caf\\303\\251-bar"),
        (b"bad-\xff-utf8", b"bad-\\udcff-utf8"),
    ],
)
def test_other_writers_are_hidden(value: bytes, written: bytes) -> None:
    """Wrapped, quoted and escaped in the ways of other languages and shells, no part of a value is shown."""
    shown = masked([value], b"[" + written + b"]")
    assert shown.translate(None, b'\\"=\n') == b"[" + MASK + b"]"
    assert masked([value], *(bytes([byte]) for byte in b"[" + written + b"]")) == shown


def test_a_value_whose_ends_a_program_strips_is_hidden() -> None:
    """Without its blanks and line ends a value is hidden too, and in base64."""
    value = b" \tpass-word\r\n"
    assert masked([value], b"<pass-word>") == b"<" + MASK + b">"
    assert masked([value], base64.b64encode(b"pass-word!")).startswith(MASK)


def test_each_line_of_eight_bytes_is_hidden() -> None:
    """Of a value of several lines, lines of eight bytes or more are hidden by themselves, shorter ones are left."""
    value = b"user=bob\n  pw=1234567\nshort\n"
    assert masked([value], b"short, pw=1234567, user=bob") == b"short, " + MASK + b", " + MASK


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


VALUES = [ODD, b" it's 1\\2 ", b"aabaabaa", b"row one..\nrow two..\n", "\u00e9\U0001f600!!".encode()]


def parts(value: bytes) -> list[bytes]:
    """A value as different writers have it, and halves of that."""
    escaped = json.dumps(value.decode())[1:-1].encode()
    forms = [value, escaped, quote(value, safe="").lower().encode(), html.escape(value.decode()).encode()]
    forms += [b"".join(b"\\u%04x" % ord(each) for each in value.decode() if ord(each) < 65536)]
    forms += [base64.b64encode(value), value.hex().encode(), value.hex().upper().encode()]
    return [piece for form in forms for piece in (form, form[: len(form) // 2], form[len(form) // 2 :])]


noise = [
    b"\\",
    b"\n",
    b"\r\n",
    b"%",
    b"&",
    b"&#",
    b"\\u",
    b"\\ud83d",
    b"\\x",
    b"'",
    b'"',
    b"2",
    b"a",
    b"aab",
    b"+",
    b";",
]
written = st.lists(st.sampled_from(noise + [piece for value in VALUES for piece in parts(value)]), max_size=12)


@pytest.mark.parametrize("values", [VALUES, [*VALUES, *(b"value number %d" % number for number in range(40))]])
@given(written.map(b"".join), st.lists(st.integers(0, 300), max_size=30))
def test_where_escapes_and_wrapped_lines_are_cut_changes_nothing(
    values: list[bytes], output: bytes, cuts: list[int]
) -> None:
    """However output comes, in two pieces or byte by byte, the same is shown, and no value in it."""
    places = sorted({0, len(output), *(cut for cut in cuts if cut < len(output))})
    shown = masked(values, output)
    assert masked(values, *(output[start:stop] for start, stop in itertools.pairwise(places))) == shown
    assert masked(values, *(bytes([byte]) for byte in output)) == shown
    assert not any(value in shown for value in values)


@given(st.lists(st.sampled_from([b"a", b"b", b"aabaabaa", b"abaab"]), max_size=30).map(b"".join))
def test_a_value_that_overlaps_itself_is_hidden_wherever_it_is(output: bytes) -> None:
    """What is hidden is what a plain search at every place finds, overlapping finds as one."""
    value, expected, hidden = b"aabaabaa", b"", 0
    for place in range(len(output)):
        if output.startswith(value, place):
            expected += MASK if place >= hidden else b""
            hidden = place + len(value)
        elif place >= hidden:
            expected += output[place : place + 1]
    assert masked([value], output) == expected


def test_many_values_are_hidden_wherever_they_begin() -> None:
    """Hundreds of values are found at any place, beside and within other text."""
    values = [b"value-%03d" % number for number in range(300)] + [b"sixsix"]
    for value in values:
        assert masked(values, b"x" * (len(value) % 4 + value[-1] % 4) + value + b".").endswith(
            b"x" * (value[-1] % 4 > 0) + MASK + b"."
        )


@pytest.mark.parametrize("size", [8, 64, 65536])
def test_a_run_that_overlaps_itself_is_hidden_at_once(size: int) -> None:
    """A run of the one letter that a value is made of is one mask, in little memory and time however long it is."""
    masker = Masker([b"a" * size])
    began = time.process_time()
    shown = [masker.feed(b"a" * 65536) for _ in range(16)]
    assert b"".join([*shown, masker.feed(b"!"), masker.finish()]) == MASK + b"!"
    assert time.process_time() - began < 20
    assert MASK in shown[0] + shown[1]


def test_what_is_held_back_is_bounded() -> None:
    """Line ends after the beginning of a wrapped value are shown when the value would be spread too wide."""
    masker = Masker([VALUE])
    began = VALUE.hex().encode()[:8]
    assert masker.feed(began + b"\n" * 1000) == began + b"\n" * 1000


def test_long_values_cost_little() -> None:
    """A value of 64 kB with a thousand lines does not slow ordinary output down to nothing."""
    value = b"\n".join(base64.b64encode(bytes([n % 256, n // 256]) * 24) for n in range(1000))
    ordinary = b"2026-01-01 12:00:00 INFO worker[12]: it handled 'request' /a/b?c=d in 12 ms\n" * 800
    masker = Masker([value])
    began = time.process_time()
    assert b"".join([*(masker.feed(ordinary) for _ in range(16)), masker.finish()]) == ordinary * 16
    assert time.process_time() - began < 10

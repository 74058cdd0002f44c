"""The grammar of a record and its canonical form."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from opskit.audit.record import (
    LARGEST,
    MAX_LINE,
    Actor,
    Fields,
    UnknownVersion,
    draft,
    genesis,
    identity,
    line_of,
    link_of,
    parse,
    sha256,
)
from opskit.encoding import encode
from opskit.errors import Damaged
from tests.audit.logs import BEGIN

TS = "2026-11-22T02:30:00.000001Z"
PREV = genesis("x")
WHO = identity(Actor(1000, 0, "anna", "cli"), "h1")
KEYS = st.from_regex(r"[a-z0-9_.]{1,8}", fullmatch=True)
LEAVES = st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.dictionaries(
    KEYS, st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.just(object()),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner),
)


def line_with(details: Any = None, target: str = "data", **changes: Any) -> bytes:
    """A line, some of its fields replaced."""
    line = line_of(draft(WHO, "backup.create", "ok", target, "r1", details or {}), 1, PREV, TS)
    return encode({**json.loads(line), **changes}) if changes else line


@given(PLAIN, st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_round_trip(details: Fields, target: str) -> None:
    """What is in the grammar comes back as it was, and its bytes are those of RFC 8785."""
    line = line_with(details, target)
    if len(rfc8785.dumps(json.loads(line))) <= MAX_LINE:
        record = parse(line)
        assert rfc8785.dumps(record) == line
        assert (record["d"], record["tgt"]) == (details, target) or b"cut_bytes" in line


@given(ANYTHING, st.text(st.characters()), st.text(st.characters()))
def test_whatever_is_given_becomes_a_record(value: object, target: str, login: str) -> None:
    """No detail, target or login, however odd or long, keeps a record from being written in the grammar."""
    who = identity(Actor(0, 0, login, "cli"), login)
    line = line_of(draft(who, "a.b", "fail", target * 40, login, {"x": value, "y": [value] * 30}), 1, PREV, TS)
    assert rfc8785.dumps(parse(line)) == line and len(line) <= MAX_LINE


class Colour(Enum):
    """A class of its own whose members are encoded by their values."""

    RED = "red"


class Path2(str):
    """Text of another class."""


@pytest.mark.parametrize(
    "value",
    [Colour.RED, float("nan"), 1.5, BEGIN, Path2("x"), b"x", {1: 2}, {"A": 1}, ("x", 1), {"x"}, 2**53, Path("/")],
)
def test_a_value_is_told_in_one_way_whatever_is_beside_it(value: object) -> None:
    """Also where what is beside it takes the slow way (a null does)."""
    alone, beside = parse(line_with({"x": value})), parse(line_with({"x": value, "z": None}))
    assert alone["d"]["x"] == beside["d"]["x"] is not None


def test_details_that_are_too_long_are_cut_to_a_digest_and_a_count() -> None:
    """The longest value gives way to its size, count and SHA-256; the short ones stay."""
    names = [f"file-{number}" for number in range(5000)]
    told = parse(line_with({"files": names, "bytes": 7}))["d"]
    encoded = json.dumps(names, separators=(",", ":")).encode()
    cut = {"cut_bytes": len(encoded), "cut_count": 5000, "cut_sha256": sha256(encoded)}
    assert told == {"bytes": 7, "files": cut}


def test_too_many_details_are_cut_as_a_whole() -> None:
    """Where the keys alone are too long, one digest stands for all."""
    told = parse(line_with({f"key-{number}": 1 for number in range(5000)}))["d"]
    assert told["cut"]["cut_count"] == 5000


def test_names_that_are_no_text_become_printable() -> None:
    """A lone surrogate, as in a file name that is not UTF-8, is written as an escape."""
    assert parse(line_with({"path": "a\udcff", "raw": b"\xff"}, target="b\udc80"))["d"] == {
        "path": "a\\udcff",
        "raw": "\\xff",
    }


WRONG = [
    (b"", "JSON"),
    (b"[]", "JSON object"),
    (b"{}", "version 1 in field v"),
    (line_with(v=True), "version"),
    (line_with(extra=1), "fields"),
    (line_with(op="Backup"), "op"),
    (line_with(op="a..b"), "op"),
    (line_with(out="good"), "out"),
    (line_with(prev="A" * 64), "prev"),
    (line_with(prev="a" * 63), "prev"),
    (line_with(seq=0), "seq"),
    (line_with(seq=2**53), "seq"),
    (line_with(seq=True), "seq"),
    (line_with(ts="2026-13-22T02:30:00.000001Z"), "ts"),
    (line_with(ts="2026-11-22T02:30:00.00000١Z"), "ts"),
    (line_with(ts="2026-11-22T02:30:00Z"), "ts"),
    (line_with(host=1), "host"),
    (line_with(actor={}), "actor"),
    (line_with(actor={"euid": 0, "login": "a", "uid": True, "via": "b"}), "actor"),
    (line_with(actor={"euid": -1, "login": "a", "uid": 1, "via": "b"}), "actor"),
    (line_with(d=[]), "d"),
    (line_with(d={"x": 1.5}), "d"),
    (line_with(d={"x": [1.0]}), "d"),
    (line_with(d={"X": 1}), "d"),
    (line_with(d={"": 1}), "d"),
    (line_with(d={"x": 2**53}), "d"),
    (line_with().replace(b'"v":1}', b'"v": 1}'), "canonical"),
    (line_with().replace(b'"v":1}', b'"v":1,"v":1}'), "canonical"),
    (line_with({"a": 1}).replace(b'{"a":1}', b'{"a":1,"a":1}'), "canonical"),
    (line_with({"a": 1, "b": 1}).replace(b'{"a":1,"b":1}', b'{"b":1,"a":1}'), "canonical"),
    (line_with().replace(b"data", b"d\\u0061ta"), "canonical"),
    (line_with() + b" ", "canonical"),
    (line_with({"x": []}).replace(b"[]", b"[" * 3000 + b"]" * 3000), "expected|encoded"),
    (line_with({"x": []}).replace(b"[]", b"[" * 17 + b"]" * 17), "field d"),
    (line_with({"x": []}).replace(b"[]", b"[" * 400 + b"]" * 400), "field d"),
    (line_with({"x": []}).replace(b"[]", b"[" + b"1," * 9000 + b"1]"), "at most 16,384 bytes"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[f"{n}-{message}" for n, (_, message) in enumerate(WRONG)])
def test_what_is_no_record_is_refused(line: bytes, message: str) -> None:
    """Every departure from the grammar or from canonical form is Damaged, by both readers, and says what it is."""
    with pytest.raises(Damaged, match=message):
        parse(line)
    with pytest.raises(Damaged):
        link_of(line)


def test_another_version_is_told_apart() -> None:
    """A record of a later format is not taken for damage."""
    with pytest.raises(UnknownVersion, match="got 2"):
        parse(line_with(v=2))


@pytest.mark.parametrize(
    "line",
    [b'{"v":0}', b'{"v":2}', b'{"prev":"","seq":"1","ts":"","v":2}', line_with(v=0), line_with(v=-1), line_with(v=2.0)],
)
def test_a_number_in_v_makes_no_later_version(line: bytes) -> None:
    """Only a later number, in what has the other marks of a record, is not damage."""
    with pytest.raises(Damaged, match="version 1 in field v") as caught:
        parse(line)
    assert type(caught.value) is Damaged


@given(PLAIN, st.text(max_size=20), st.data())
def test_the_quick_reader_judges_as_the_thorough_one(details: Fields, target: str, data: st.DataObject) -> None:
    """`link_of` gives the fields of `parse`, and refuses what it refuses, whichever byte is changed."""
    line = bytearray(line_with(details, target))
    if data.draw(st.booleans()):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    try:
        record = parse(bytes(line))
    except Damaged:
        with pytest.raises(Damaged):
            link_of(bytes(line))
        return
    link = link_of(bytes(line))
    assert link.seq == record["seq"]
    texts = [record[name].encode() for name in ("prev", "op", "out", "run", "tgt", "ts")]
    assert list(link[1:]) == texts


def test_an_operation_has_to_be_named_properly() -> None:
    """A name outside the grammar is the programmer's mistake and is told before anything is done."""
    with pytest.raises(ValueError, match=r"backup\.create"):
        draft(WHO, "Backup", "ok", "", "", {})

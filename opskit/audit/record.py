"""One record of the audit log: a line of canonical JSON in a restricted grammar.

Keys are ASCII (`[a-z0-9_.]+`), values are text, integers within ±(2^53 - 1), booleans, null, lists and objects: no
floats, no lone surrogates. In that grammar sorted keys without white space are the bytes of RFC 8785, so any other
implementation comes to the same hash. A line has at most MAX_LINE bytes without its LF.

Writing is lenient and reading strict: `draft` makes whatever it gets fit (an audited act must not fail because a detail
is odd), `parse` refuses everything that `draft` would not have written. Nothing here knows of files or clocks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from typing import Any, Literal, NamedTuple

from opskit.encoding import decode, encode, encode_plain
from opskit.errors import Damaged

VERSION = 1
MAX_LINE = 16 * 1024
MAX_TARGET = 512
MAX_NAME = 128
MAX_DEPTH = 16
LARGEST = 2**53 - 1

OPEN, SEAL, RECOVERED = "audit.open", "audit.seal", "audit.recovered"
Outcome = Literal["start", "ok", "fail", "denied", "skip"]
OUTCOMES = frozenset(("start", "ok", "fail", "denied", "skip"))

FIELDS = frozenset(("actor", "d", "host", "op", "out", "prev", "run", "seq", "tgt", "ts", "v"))
_ACTOR = frozenset(("euid", "login", "uid", "via"))
_KEY = re.compile(r"[a-z0-9_.]+")
_OP = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*")
_TIME = re.compile(
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z"
)

_TEXT = r"[ !#-\[\]-~]*"
_NUMBER = r"(?:0|[1-9][0-9]{0,14})"
# Details as nearly all records have them: values, and lists of values. No null: the encoder makes one of NaN.
_VALUE = rf'(?:"{_TEXT}"|-?{_NUMBER}|true|false)'
_ITEM = rf'"{_KEY.pattern}":(?:{_VALUE}|\[(?:{_VALUE}(?:,{_VALUE})*)?\])'
_PLAIN_DETAILS = re.compile(rf"\{{(?:{_ITEM}(?:,{_ITEM})*)?\}}".encode())
_LINE = (
    b'{"actor":%b,"d":%b,"host":%b,"op":"%b","out":"%b","prev":"%b","run":%b,"seq":%d,"tgt":%b,"ts":"%b","v":'
    + str(VERSION).encode()
    + b"}"
)

# Texts that were found to be in order; reading many records spends a third of its time on them otherwise.
_MAX_SEEN = 1000
_seen_ops: set[str] = set()
_seen_keys: set[str] = set()

Fields = dict[str, Any]
"""A record as `parse` gives it: exactly the keys of FIELDS, each of its type."""


class UnknownVersion(Damaged):
    """A record of a format that this opskit does not know."""


@dataclass(frozen=True)
class Actor:
    """Who acts: real and effective user id, the login behind them (empty: unknown), and the channel (cli, daemon)."""

    uid: int
    euid: int
    login: str
    via: str


class Head(NamedTuple):
    """The record that the next one follows: its number, the SHA-256 of its line, and its `op`."""

    seq: int
    sha256: str
    op: str


class Link(NamedTuple):
    """The fields that join records; text as it stands in UTF-8."""

    seq: int
    prev: bytes
    op: bytes
    out: bytes
    run: bytes
    target: bytes
    ts: bytes


# At a fifth of the cost of `Link(...)`, and there is one for each record of a log.
_link: Callable[[tuple[int, bytes, bytes, bytes, bytes, bytes, bytes]], Link] = partial(tuple.__new__, Link)


def genesis(log_id: str) -> str:
    """What the first record of a log names as its predecessor."""
    return hashlib.sha256(f"opskit-audit-v1\n{log_id}\n".encode()).hexdigest()


def sha256(line: bytes) -> str:
    """The hash that the next record names: of the line without its LF."""
    return hashlib.sha256(line).hexdigest()


class Identity(NamedTuple):
    """The fields that say who acts and where, encoded."""

    actor: bytes
    host: bytes


class Draft(NamedTuple):
    """A record without its place in the log (`seq`, `prev`, `ts`); but for `op`, each field encoded."""

    who: Identity
    op: str
    out: str
    target: bytes
    run: bytes
    details: bytes


def identity(actor: Actor, host: str) -> Identity:
    """Who acts and where, for `draft`."""
    login, via = _text(actor.login, MAX_NAME), _text(actor.via, MAX_NAME)
    named = {"euid": actor.euid, "login": login, "uid": actor.uid, "via": via}
    return Identity(encode(named), encode(_text(host, MAX_NAME)))


def draft(who: Identity, op: str, out: Outcome, target: str, run: str, details: Mapping[str, object]) -> Draft:
    """A record that still lacks its place, made to fit the grammar; `op` and `out` must."""
    if not _is_op(op) or len(op) > MAX_NAME or out not in OUTCOMES:
        raise ValueError(f"expected an operation like backup.create and a known outcome, got {op!r} {out!r}")
    return Draft(who, op, out, encode(_text(target, MAX_TARGET)), encode(_text(run, MAX_NAME)), _details(details))


def with_details(drafted: Draft, more: Fields) -> Draft:
    """The draft with more details, which are in the grammar."""
    return drafted._replace(details=encode({**decode(drafted.details), **more}))


def line_of(drafted: Draft, seq: int, prev: str, ts: str) -> bytes:
    """The record's line without LF; details that make it longer than MAX_LINE are cut, the longest first."""
    (actor, host), op, out, target, run, details = drafted
    where = prev.encode(), run, seq, target, ts.encode()
    line = _LINE % (actor, details, host, op.encode(), out.encode(), *where)
    if len(line) > MAX_LINE:
        room = MAX_LINE - len(line) + len(details)
        line = _LINE % (actor, encode(_cut(decode(details), room)), host, op.encode(), out.encode(), *where)
    return line


def parse(line: bytes) -> Fields:
    """The record in a line without its LF.

    Raises Damaged, saying what is wrong, where it is no record; UnknownVersion where it is one of another format.
    """
    if len(line) > MAX_LINE:
        raise Damaged(f"expected at most {MAX_LINE:,} bytes in a line, got {len(line):,}")
    record = decode(line)
    if type(record) is not dict:
        raise Damaged("expected a JSON object")
    if record.get("v") != VERSION or type(record["v"]) is not int:
        if _is_of_later_version(record):
            raise UnknownVersion(f"expected format version {VERSION}, got {record['v']}")
        raise Damaged(f"expected format version {VERSION} in field v")
    if record.keys() != FIELDS:
        raise Damaged(f"expected the fields {', '.join(sorted(FIELDS))}, got {', '.join(sorted(record))}")
    if wrong := _wrong_field(record):
        raise Damaged(f"field {wrong} is not as the format has it")
    if _encoded(record) != line:
        raise Damaged("not in canonical form: key order, white space, escapes, or a key twice")
    return record


@cache
def _plain_line() -> re.Pattern[bytes]:
    """A record in canonical form whose texts need no escapes: d, op, out, prev, run, seq, tgt, ts.

    Compiled where it is needed only: that takes half a millisecond, and most commands merely write two records.
    """
    return re.compile(
        rf"""\{{"actor":\{{"euid":{_NUMBER},"login":"{_TEXT}","uid":{_NUMBER},"via":"{_TEXT}"\}},"d":(\{{.*\}}),"""
        rf""""host":"{_TEXT}","op":"({_OP.pattern})","out":"({"|".join(sorted(OUTCOMES))})","prev":"([0-9a-f]{{64}})","""
        rf""""run":"({_TEXT})","seq":([1-9][0-9]{{0,14}}),"tgt":"({_TEXT})","ts":"({_TIME.pattern})","v":{VERSION}\}}""".encode()
    )


def link_of(line: bytes) -> Link:
    """What a verifier needs of `parse(line)`, at a third of the cost; raises as `parse` does.

    Nearly all lines hold plain ASCII, and but for the order of keys their canonical form is a regular expression.
    """
    match = _plain_line().fullmatch(line) if len(line) <= MAX_LINE else None
    if match is not None:
        details, op, out, prev, run, seq, target, ts = match.groups()
        value = None if details == b"{}" else decode(details)
        if value is None or (_is_plain(value, MAX_DEPTH) and _encoded(value) == details):
            return _link((int(seq), prev, op, out, run, target, ts))
    record = parse(line)
    names = (record[name].encode() for name in ("prev", "op", "out", "run", "tgt", "ts"))
    return Link(record["seq"], *names)


def _encoded(value: Fields) -> bytes:
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError) as error:  # what parses need not encode: too deep, for one
        raise Damaged(f"cannot be encoded again: {error}") from error


def _is_of_later_version(record: Fields) -> bool:
    """Whether this is a record that a newer opskit may have written, and not something that merely has a `v`."""
    version, kinds = record.get("v"), {"seq": int, "prev": str, "ts": str}
    return type(version) is int and version > VERSION and all(type(record.get(k)) is kinds[k] for k in kinds)


def _wrong_field(record: Fields) -> str | None:
    if not _is_actor(record["actor"]):
        return "actor"
    op, out, prev = record["op"], record["out"], record["prev"]
    if type(op) is not str or not _is_op(op):
        return "op"
    if type(out) is not str or out not in OUTCOMES:
        return "out"
    if type(prev) is not str or len(prev) != 64 or prev.strip("0123456789abcdef"):
        return "prev"
    if type(record["seq"]) is not int or not 1 <= record["seq"] <= LARGEST:
        return "seq"
    if type(record["ts"]) is not str or not _TIME.fullmatch(record["ts"]):
        return "ts"
    if type(record["host"]) is not str or type(record["run"]) is not str or type(record["tgt"]) is not str:
        return "host, run or tgt"
    return None if type(record["d"]) is dict and _is_plain(record["d"], MAX_DEPTH) else "d"


def _is_actor(actor: Any) -> bool:
    return (
        type(actor) is dict
        and actor.keys() == _ACTOR
        and type(actor["uid"]) is int
        and type(actor["euid"]) is int
        and 0 <= actor["uid"] <= LARGEST
        and 0 <= actor["euid"] <= LARGEST
        and type(actor["login"]) is str
        and type(actor["via"]) is str
    )


def _is_op(text: str) -> bool:
    return text in _seen_ops or _noted(text, _OP, _seen_ops)


def _noted(text: str, pattern: re.Pattern[str], seen: set[str]) -> bool:
    """Whether the text is as the pattern has it; remembered, for such texts are few and records many."""
    if not pattern.fullmatch(text):
        return False
    if len(seen) < _MAX_SEEN:
        seen.add(text)
    return True


def _is_plain(value: dict[str, Any] | list[Any], depth: int) -> bool:
    """Whether a container is in the restricted grammar; types are compared exactly, for a bool is an int."""
    if depth == 0:
        return False
    items: Iterable[Any] = value
    if isinstance(value, dict):
        if not (value.keys() <= _seen_keys or all(_noted(key, _KEY, _seen_keys) for key in value)):
            return False
        items = value.values()
    for item in items:
        kind = type(item)
        if kind is str or kind is bool or item is None:
            continue
        if kind is int:
            if not -LARGEST <= item <= LARGEST:
                return False
        elif (kind is not dict and kind is not list) or not _is_plain(item, depth - 1):
            return False
    return True


def _details(details: Mapping[str, object]) -> bytes:
    """The details in the restricted grammar, encoded."""
    try:
        data = encode_plain(details)
    except (TypeError, ValueError, RecursionError):
        data = b""
    # Whether all of it is in the grammar is quicker told from the bytes.
    return data if _PLAIN_DETAILS.fullmatch(data) else encode(_plain(details, MAX_DEPTH))


def _plain(value: Any, depth: int) -> object:
    """The value in the restricted grammar, as near as it comes."""
    if isinstance(value, Enum):
        value = value.value
    kind = type(value)
    if value is None or kind is bool or (kind is str and value.isascii()):
        return value
    if isinstance(value, int):
        return int(value) if -LARGEST <= value <= LARGEST else str(value)
    if depth > 0 and (kind is dict or isinstance(value, Mapping)):
        return {_key(key): _plain(item, depth - 1) for key, item in value.items()}
    if depth > 0 and isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_plain(item, depth - 1) for item in items]
    return _text(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value), None)


def _key(name: object) -> str:
    text = str(name)
    if text in _seen_keys or _noted(text, _KEY, _seen_keys):
        return text
    return re.sub(r"[^a-z0-9_.]", "_", text.lower()) or "_"


def _text(text: str, longest: int | None) -> str:
    """Text without lone surrogates and of at most `longest` characters; the rest of it becomes a digest."""
    text = text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
    if longest is None or len(text) <= longest:
        return text
    end = f"… sha256:{sha256(text.encode())[:32]}"
    return text[: longest - len(end)] + end


def _cut(details: Fields, room: int) -> Fields:
    """Details of at most `room` bytes: the longest values first give way to their size, count and digest."""
    sizes = {key: len(encode(value)) for key, value in details.items()}
    shorter, length = dict(details), len(encode(details))
    for key in sorted(sizes, key=lambda each: (-sizes[each], each)):
        if length <= room:
            return shorter
        shorter[key] = _digest(details[key])
        length += len(encode(shorter[key])) - sizes[key]
    return shorter if length <= room else {"cut": _digest(details)}


def _digest(value: Any) -> Fields:
    data = encode(value)
    count = len(value) if isinstance(value, str | list | dict) else 1
    return {"cut_bytes": len(data), "cut_count": count, "cut_sha256": sha256(data)}

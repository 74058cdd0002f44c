"""Secrets, and every way in which one could have been written down: the one place that knows encodings.

It shares nothing with `opskit.secrets.masking`, which has to find the same for another reason: two that err alike would
not be noticed.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

from cryptography.hazmat.primitives import serialization

SHORTEST = 6
"""Bytes; anything shorter is found everywhere."""
_PART = 16
"""Bytes of the beginning and the end that are looked for too: a value that was cut is half a secret."""
_LINE = 8
_WORD = 4
_PUBLIC = frozenset(("username", "access_key_id"))
_KEY = rb"[A-Z ]*PRIVATE KEY(?: BLOCK)?-----"
_BLOCK = re.compile(rb"-----BEGIN " + _KEY + rb".*?-----END " + _KEY + rb"\n?", re.DOTALL)
_BLANK = bytes(range(33))


class Sentinels:
    """Secrets by name; `found_in` says which of them stand in some bytes, and how."""

    def __init__(self) -> None:
        self._plain, self._hex, self._base64 = _Forms(), _Forms(), _Forms()
        self.names: dict[str, set[bytes]] = {}

    def add(self, name: str, value: bytes) -> None:
        """A value as a store holds it: a text, a document of JSON, a private key."""
        for part in set(_secret_parts(value)):
            if len(part) < SHORTEST or part in self.names.setdefault(name, set()):
                continue
            self.names[name].add(part)
            for how, form in forms(part):
                self._plain.add(form, f"{name}, {how}")
            self._hex.add(part.hex().encode(), f"{name}, hexadecimal")
            for form in _base64(part):
                self._base64.add(form, f"{name}, base64")

    def found_in(self, data: bytes) -> set[str]:
        """What stands there, as "name, encoding"; line ends within hexadecimal and base64 are looked over."""
        together = data.translate(None, _BLANK)
        readings = (
            (self._plain, data),
            (self._hex, together.replace(b":", b"").lower()),
            (self._base64, together.replace(b"\\n", b"").translate(bytes.maketrans(b"-_", b"+/"))),
        )
        return {said for known, text in readings for said in known.found_in(text)}


class _Forms:
    """Many strings that are looked for in one pass: each covers a whole word of four bytes, wherever it begins."""

    def __init__(self) -> None:
        self._known = set[bytes]()
        self._words: dict[int, list[tuple[bytes, int, str]]] = {}
        self._short: list[tuple[bytes, str]] = []

    def add(self, form: bytes, said: str) -> None:
        if form in self._known:
            return
        self._known.add(form)
        if len(form) < 2 * _WORD - 1:
            self._short.append((form, said))
            return
        for offset in range(_WORD):
            word = memoryview(form[offset : offset + _WORD]).cast("I")[0]
            self._words.setdefault(word, []).append((form, offset, said))

    def found_in(self, text: bytes) -> Iterator[str]:
        """What stands there."""
        yield from (said for form, said in self._short if form in text)
        words, known = memoryview(text)[: len(text) // _WORD * _WORD].cast("I"), self._words
        for at, word in [(at, word) for at, word in enumerate(words) if word in known]:
            for form, offset, said in known[word]:
                if text.startswith(form, max(at * _WORD - offset, 0)):
                    yield said


def forms(value: bytes) -> Iterator[tuple[str, bytes]]:
    """A value as it may stand in a text, each with what that is called; hexadecimal and base64 not among them."""
    yield "as it is", value
    if len(value) >= 2 * _PART:
        yield "its beginning", value[:_PART]
        yield "its end", value[-_PART:]
    lines = [line.strip() for line in value.splitlines()]
    yield from (("a line of it", line) for line in lines if len(lines) > 1 and len(line) >= _LINE)
    yield "Python's repr", repr(value)[2:-1].encode()
    yield "as octal escapes", b"".join(b"\\%03o" % byte if byte > 126 or byte < 32 else b"%c" % byte for byte in value)
    yield "percent-encoded", _lower_percent(quote(value, safe=""))
    for safe in ("", "/", "/:@!$&'()*+,;="):
        yield "percent-encoded", quote(value, safe=safe).encode()
    yield "percent-encoded", quote_plus(value).encode()
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return
    yield from _text_forms(text)


def _text_forms(text: str) -> Iterator[tuple[str, bytes]]:
    for ascii_only in (True, False):
        once = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield "JSON", once.encode()
        yield "JSON in JSON", json.dumps(once, ensure_ascii=ascii_only)[1:-1].encode()
    yield "JSON", json.dumps(text)[1:-1].replace("/", "\\/").encode()
    yield "Python's repr", repr(text)[1:-1].encode()
    yield "Python's repr", ascii(text)[1:-1].encode()
    yield "for a shell", (shlex.quote(text)[1:-1] if shlex.quote(text) != text else text).encode()
    yield "for a shell", text.replace("'", "'\\''").encode()
    yield "for a shell", re.sub(r"([^\w@%+=:,./-])", r"\\\1", text).encode()
    yield "for SQL", text.replace("'", "''").encode()
    yield "for SQL", text.replace("\\", "\\\\").replace("'", "''").encode()
    yield "for SQL", text.replace("\\", "\\\\").replace("'", "\\'").encode()
    yield "for HTML", html.escape(text).encode()
    yield "for HTML", html.escape(text, quote=False).encode()
    yield "UTF-16", text.encode("utf-16-le")
    yield "UTF-16", text.encode("utf-16-be")
    yield "Latin-1", text.encode("latin-1", "replace")


def _lower_percent(text: str) -> bytes:
    return re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), text).encode()


def _base64(value: bytes) -> Iterator[bytes]:
    """At each of the places where it can begin in a longer text, without the characters its neighbours have part in."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + value).rstrip(b"=")
        start, rest = (0, 2, 3)[before], (before + len(value)) % 3
        yield encoded[start : len(encoded) - (rest != 0)]


def _secret_parts(value: bytes) -> Iterator[bytes]:
    """What of a value is secret: the strings of a document, the numbers and the text of a private key."""
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    if isinstance(found, dict):
        for name, each in found.items():
            if name not in _PUBLIC and isinstance(each, str):
                yield from _secret_parts(each.encode())
        return
    blocks = _BLOCK.findall(value)
    for block in blocks:
        yield from _of_key(block)
    if not blocks:
        yield value


def _of_key(block: bytes) -> Iterator[bytes]:
    """The secret number, and the lines that hold some of it: those around it are the same in all keys, or public."""
    if b"PGP" in block:
        yield from _of_openpgp(block)
        return
    load = serialization.load_ssh_private_key if b"OPENSSH" in block else serialization.load_pem_private_key
    key = load(block, None)
    numbers = getattr(key, "private_numbers", None)
    yield numbers().private_value.to_bytes(32) if numbers is not None else key.private_bytes_raw()  # type: ignore[union-attr]
    yield key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    lines = block.splitlines()[1:-1]
    yield from lines[1:3] if b"OPENSSH" in block else lines[:2]


def _of_openpgp(block: bytes) -> Iterator[bytes]:
    """The secret numbers of an unprotected key and its subkey, which end their packets but for a sum."""
    data = base64.b64decode(b"".join(block.partition(b"\n\n")[2].splitlines()[:-2]))
    while data:
        head = 1 << (data[0] & 3)  # the packets of gpg have headers of the old form
        end = 1 + head + int.from_bytes(data[1 : 1 + head])
        if data[0] >> 2 & 15 in (5, 7):
            yield data[end - 34 : end - 2]
        data = data[end:]

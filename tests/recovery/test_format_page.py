"""docs/format.md is true: its examples decode with the code, and its numbers are the code's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from opskit import encoding
from opskit.gpg import bulk
from opskit.gpg.verify import LARGEST_PAYLOAD
from opskit.operations import contents
from opskit.paper.sheet import Part
from opskit.repository import (
    certificates,
    chunker,
    consent,
    evidence,
    index,
    manifest,
    marks,
    names,
    pack,
    sealed_keys,
    tree,
)
from opskit.repository.recovery import keyfile

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(?:json|text) ([a-z. ]+)\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL)
ARMOR = b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n-----END PGP PRIVATE KEY BLOCK-----\n"


def again(decode: Callable[[bytes], object], encode: Callable[[object], bytes]) -> Callable[[bytes], None]:
    """A check that decoding and encoding gives the same bytes."""

    def check(data: bytes) -> None:
        assert encode(decode(data)) == data

    return check


def check_json(data: bytes) -> None:
    assert encoding.encode(encoding.decode_object(data, what="example")) == data


def check_tree(data: bytes) -> None:
    for line, node in zip(data.splitlines(), tree.decode_lines(data), strict=True):
        if node.type != "more":
            assert tree.encode_line(node) == line + b"\n"
        assert encoding.encode(encoding.decode(line)) == line


def check_key(data: bytes) -> None:
    check_json(data)
    for run, key in encoding.decode_object(data, what="key").items():
        assert re.fullmatch("[0-9a-f]{32}", run) and bulk.require_run_key(key.encode())


def check_index(data: bytes) -> None:
    head = encoding.decode_object(data, what="index")
    ids = b"i" * 32 * sum(each["chunks"] for each in head["packs"])
    found = index.decode(data + b"\n" + ids, repository=head["repository"])
    assert index.encode(head["repository"], found) == data + b"\n" + ids


def check_key_file(data: bytes) -> None:
    found = keyfile.decode(data + b"\n\n" + ARMOR)
    assert found.repository and found.recover_sha256 and found.signers and found.maintainers
    assert [
        line for line in keyfile.encode(found).split(b"\n\n")[0].splitlines() if line[:1] != b"#"
    ] == data.splitlines()


def check_consent(data: bytes) -> None:
    said = encoding.decode_object(data, what="consent")
    assert consent.words(said["repository"], manifest.time_of(said["created"]), said["supersedes"]) == data


def check_options(data: bytes) -> None:
    assert tuple(data.decode().split()) == bulk.CIPHER_OPTIONS


def check_paper_code(data: bytes) -> None:
    head, *lines = data.decode().splitlines()
    part = Part(1, 2, head.split()[2], 1, tuple(lines))
    assert part.text().encode() == data + b"\n"


CHECKS: dict[str, Callable[[bytes], None]] = {
    "opskit.json": check_json,
    "copy.json": check_json,
    "options": check_options,
    "key": check_key,
    "tree": check_tree,
    "root": again(tree.decode_root, tree.encode_root),  # type: ignore[arg-type]
    "index": check_index,
    "manifest": again(manifest.decode, manifest.encode),  # type: ignore[arg-type]
    "mark": again(marks.decode, marks.encode),  # type: ignore[arg-type]
    "consent": check_consent,
    "evidence": again(evidence.decode, evidence.encode),  # type: ignore[arg-type]
    "certificate": again(certificates.decode, certificates.encode),  # type: ignore[arg-type]
    "sealed key": again(sealed_keys.decode, sealed_keys.encode),  # type: ignore[arg-type]
    "key file": check_key_file,
    "paper code": check_paper_code,
}


@pytest.mark.parametrize(("kind", "text"), EXAMPLES, ids=[kind for kind, _ in EXAMPLES])
def test_examples_decode(kind: str, text: str) -> None:
    """Every example on the page is what the code would write, byte for byte."""
    CHECKS[kind](text.encode())


def test_every_kind_of_object_has_an_example() -> None:
    """No object is specified without an example."""
    assert {kind for kind, _ in EXAMPLES} == CHECKS.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MIN_CHUNK", chunker.MIN_CHUNK),
        ("AVERAGE_CHUNK", chunker.AVERAGE_CHUNK),
        ("MAX_CHUNK", chunker.MAX_CHUNK),
        ("PACK_BYTES", pack.PACK_BYTES),
        ("MIN_CUT", tree.MIN_CUT),
        ("MAX_CUT", tree.MAX_CUT),
        ("MAX_CHUNKS_A_LINE", tree.MAX_CHUNKS_A_LINE),
        ("MAX_INLINE_PACKS", manifest.MAX_INLINE_PACKS),
        ("MAX_LIST", manifest.MAX_LIST),
    ],
)
def test_constants(name: str, value: int) -> None:
    """A number that the page gives with its name in the code is the number in the code."""
    said = re.findall(rf"([0-9][0-9,]*)[^0-9`]{{0,40}}\(`{name}`\)", PAGE)
    assert said and {int(each.replace(",", "")) for each in said} == {value}


def test_limits() -> None:
    """The other limits of the page are the code's."""
    assert pack._READ_LIMIT == 134_217_728 and "134,217,728" in PAGE
    assert LARGEST_PAYLOAD == 512 << 20 and "512 MiB of payload" in PAGE
    assert contents.MAX_HOLES == 4096 and "| 4,096; with more" in PAGE
    assert tree._CUT_MASK == 0xFF and "crc32(path) & 0xFF" in PAGE
    assert manifest._LIST_CUT == 0x7F and "n & 0x7F" in PAGE
    assert names.LABEL.pattern in PAGE


def test_header_layout() -> None:
    """The offsets and texts of the table of a member's header are those of a real one."""
    header, place = pack.header(bytes(range(32)), 12345), 0
    section = PAGE[PAGE.index("Its header is 512 bytes") :]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (.*) \|$", section, re.MULTILINE)
    for offset, length, content in rows:
        assert int(offset) == place
        place += int(length)
        field = header[int(offset) : place]
        texts = b"".join(text.encode().replace(b"\\0", b"\0") for text in re.findall("`([^`]*)`", content))
        if content.startswith("zeros"):
            assert field == bytes(int(length))
        elif texts:
            assert field == texts * (int(length) // len(texts))
    assert place == 512
    unsummed = header[:148] + b" " * 8 + header[156:]
    assert header[148:156] == b"%06o\0 " % sum(unsummed)


def test_example_names() -> None:
    """The grammar of names on the page is the code's: each row with a hash in it is accepted."""
    rows = re.findall(r"^\| `([a-z]+/[^`]*)` \|", PAGE, re.MULTILINE)
    digest = "ab" + "0" * 62
    for row in rows:
        name = row.replace("<2 hex>", "ab").replace("<sha256>", digest).replace("<time>", "20261121T020000Z")
        name = name.replace("<source>", "a_b-9").replace("<kind>", "forget")
        assert names.digest_in(name) == (None if row.startswith("quarantine") else digest)
    assert len(rows) == 8

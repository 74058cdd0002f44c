"""The tree of a snapshot: JSON Lines, one a file system entry, in component-wise byte order.

Invariants:
- Order: paths compare component by component as bytes, so a folder is followed by all that is below
  it (`/` sorts before every other byte). Walks come in this order, and two trees merge in one pass.
- An entry's line depends on the entry alone: unchanged entries give equal lines.
- The stream is cut after a line by a hash of that line's path, between MIN_CUT and MAX_CUT bytes, so
  a change re-stores only the tree chunk around it.
- The root lists the tree chunks in order, each with its pack and first path, so one path is found
  without reading the whole tree.

Reading is strict: `decode_line` refuses paths that are absolute, empty, or contain "." or ".."
components or NUL, whatever signed them. This module does not read files or packs.
"""

from __future__ import annotations

import base64
import binascii
import functools
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opskit import encoding
from opskit.errors import Damaged

MIN_CUT = 64 * 1024
MAX_CUT = 256 * 1024
_CUT_MASK = 0xFF
MAX_CHUNKS_A_LINE = 4096
"""Chunk ids one line holds; a longer list goes on in further lines of type "more"."""

_LARGEST, _IDS, _DEVICES = 2**62, 2**32, 2**20
"""What a reader takes: sizes whose sums still fit 64 bits; owners and chunk lengths; device numbers."""
EARLIEST, LATEST = -(2**63), 2**64 - 1
"""Times in nanoseconds that JSON integers of 64 bits hold: 1677 to 2554, more than ext4 and xfs can store."""

TYPES = frozenset({"file", "dir", "symlink", "fifo", "char", "block", "socket", "more"})

Chunk = tuple[bytes, int]
"""A chunk id (32 bytes) and the chunk's length in bytes."""


@dataclass(slots=True)
class Node:
    """One entry of a tree.

    `path` is relative to "/" without a leading slash. `mode` holds the permission bits (12 bits).
    `mtime` is in nanoseconds since the epoch, None for the parents of a source path, whose
    times are not the source's business. `hardlink` is equal for entries that are one inode. `holes`
    are (offset, length) pairs; the chunks hold what lies between them. `error` says why a file's content is absent.
    """

    path: bytes
    type: str
    mode: int
    uid: int
    gid: int
    user: str | None = None
    group: str | None = None
    mtime: int | None = None
    size: int = 0
    chunks: list[Chunk] = field(default_factory=list)
    hardlink: str | None = None
    target: bytes | None = None
    device: tuple[int, int] | None = None
    holes: list[tuple[int, int]] = field(default_factory=list)
    xattrs: list[tuple[bytes, bytes]] = field(default_factory=list)
    error: str | None = None


def order(path: bytes) -> bytes:
    """A key that sorts paths component-wise: NUL cannot occur in a name and is below every byte."""
    return path.replace(b"/", b"\0")


def plain_line(path: str, status: os.stat_result, user: str, group: str, chunk_id: bytes) -> bytes:
    """The line of an ordinary file of one chunk, which nearly all entries are: what `encode_line` writes, sooner."""
    owners, owner = _owner_parts(status.st_gid, group, status.st_mode & 0o7777, status.st_uid, user)
    name, size = encoding.encode(path).decode(), status.st_size
    return (
        f'{{"chunks":[["{chunk_id.hex()}",{size}]],{owners},"mtime":{status.st_mtime_ns},'
        f'"path":{name},"size":{size},"type":"file",{owner}}}\n'
    ).encode()


def plain_folder_line(path: str, status: os.stat_result, user: str, group: str) -> bytes:
    """The line of an ordinary folder: what `encode_line` writes, sooner."""
    owners, owner = _owner_parts(status.st_gid, group, status.st_mode & 0o7777, status.st_uid, user)
    name = encoding.encode(path).decode()
    return f'{{{owners},"mtime":{status.st_mtime_ns},"path":{name},"type":"dir",{owner}}}\n'.encode()


@functools.lru_cache(maxsize=1024)
def _owner_parts(gid: int, group: str, mode: int, uid: int, user: str) -> tuple[str, str]:
    """Two stretches of canonical JSON that many entries share."""
    first = encoding.encode({"gid": gid, "group": group, "mode": mode}).decode()
    return first[1:-1], encoding.encode({"uid": uid, "user": user}).decode()[1:-1]


def encode_line(node: Node) -> bytes:
    """The line or lines of a node, each ending in a newline."""
    value: dict[str, object] = {"type": node.type, "mode": node.mode, "uid": node.uid, "gid": node.gid}
    _put_bytes(value, "path", node.path)
    if node.mtime is not None:
        value["mtime"] = node.mtime
    if node.user is not None:
        value["user"] = node.user
    if node.group is not None:
        value["group"] = node.group
    if node.type == "file":
        value["size"] = node.size
        value["chunks"] = [[chunk_id.hex(), length] for chunk_id, length in node.chunks[:MAX_CHUNKS_A_LINE]]
        if node.holes:
            value["holes"] = node.holes
    if node.hardlink is not None:
        value["hardlink"] = node.hardlink
    if node.target is not None:
        _put_bytes(value, "target", node.target)
    if node.device is not None:
        value["device"] = node.device
    if node.xattrs:
        value["xattrs"] = [[_text64(name), _text64(content)] for name, content in node.xattrs]
    if node.error is not None:
        value["error"] = node.error
    line = encoding.encode(value) + b"\n"
    if len(node.chunks) > MAX_CHUNKS_A_LINE:
        line += b"".join(_more_lines(node))
    return line


def _more_lines(node: Node) -> Iterator[bytes]:
    for start in range(MAX_CHUNKS_A_LINE, len(node.chunks), MAX_CHUNKS_A_LINE):
        piece = node.chunks[start : start + MAX_CHUNKS_A_LINE]
        value: dict[str, object] = {"type": "more", "chunks": [[chunk_id.hex(), length] for chunk_id, length in piece]}
        _put_bytes(value, "path", node.path)
        yield encoding.encode(value) + b"\n"


def decode_lines(data: bytes) -> Iterator[Node]:
    """The nodes of whole lines; a "more" line comes as a node of its own; raises Damaged."""
    for line in data.split(b"\n"):
        if line:
            yield decode_line(line)


def decode_line(line: bytes) -> Node:
    """Parse and check one line; raises Damaged for anything a writer of this format cannot have made."""
    value = encoding.decode_object(line, what="tree entry")
    try:
        return _node(value)
    except (KeyError, IndexError, TypeError, ValueError, binascii.Error) as error:
        raise Damaged(f"malformed tree entry: {error}") from error


def _node(value: dict[str, Any]) -> Node:
    kind = value["type"]
    if kind not in TYPES:
        raise Damaged(f"tree entry of unknown type {kind!r}")
    get = value.get
    target = _no_nul(_get_bytes(value, "target")) if kind == "symlink" else None
    device = get("device")
    return Node(
        path=check_path(_get_bytes(value, "path")),
        type=kind,
        mode=int(get("mode", 0)) & 0o7777,
        uid=_natural(get("uid", 0), below=_IDS),
        gid=_natural(get("gid", 0), below=_IDS),
        user=_optional_text(get("user")),
        group=_optional_text(get("group")),
        mtime=None if get("mtime") is None else _time(value["mtime"]),
        size=_natural(get("size", 0)),
        chunks=[(_chunk_id(text), _natural(length, below=_IDS)) for text, length in get("chunks", ())],
        hardlink=_optional_text(get("hardlink")),
        target=target,
        device=None if device is None else (_natural(device[0], below=_DEVICES), _natural(device[1], below=_DEVICES)),
        holes=[(_natural(offset), _natural(length)) for offset, length in get("holes", ())],
        xattrs=[(_no_nul(_bytes64(name)), _bytes64(content)) for name, content in get("xattrs", ())],
        error=_optional_text(get("error")),
    )


def check_path(path: bytes) -> bytes:
    """The path itself if it is relative and stays below its root, else Damaged."""
    framed = b"/" + path + b"/"
    if b"//" in framed or b"/./" in framed or b"/../" in framed or b"\0" in framed:
        raise Damaged(f"tree entry with an unsafe path: {path[:200]!r}")
    return path


def _chunk_id(text: str) -> bytes:
    chunk_id = bytes.fromhex(text)
    if len(chunk_id) != 32:
        raise ValueError("expected a chunk id of 64 hex characters")
    return chunk_id


def _natural(value: object, *, below: int = _LARGEST) -> int:
    if not isinstance(value, int) or not 0 <= value < below:
        raise ValueError(f"expected a number from 0 and below {below}, got {value!r}")
    return value


def _time(value: object) -> int:
    if not isinstance(value, int) or not EARLIEST <= value <= LATEST:
        raise ValueError(f"expected a time in nanoseconds, got {value!r}")
    return value


def _no_nul(content: bytes) -> bytes:
    if b"\0" in content:
        raise ValueError("expected no NUL in a name")
    return content


def _optional_text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"expected text, got {value!r}")
    return value


def _put_bytes(value: dict[str, object], key: str, content: bytes) -> None:
    """File names are bytes; those that are not UTF-8 go in as base64 under another key."""
    try:
        value[key] = content.decode()
    except UnicodeDecodeError:
        value[key + "64"] = _text64(content)


def _get_bytes(value: dict[str, Any], key: str) -> bytes:
    text = value.get(key)
    if text is None:
        return _bytes64(value[key + "64"])
    return str(text).encode()


def _bytes64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _text64(content: bytes) -> str:
    return base64.b64encode(content).decode()


class TreeCutter:
    """Collects lines and hands them back in pieces cut by path hash."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._size = 0
        self._first = b""

    def add(self, path: bytes, lines: bytes) -> Sequence[tuple[bytes, bytes]]:
        """Take an entry's line(s); returns the (first path, piece) pairs that are complete."""
        if len(lines) > MAX_CUT:  # a huge file: its "more" lines may go into pieces of their own
            return [done for line in lines.splitlines(keepends=True) for done in self._add(path, line)]
        return self._add(path, lines)

    def _add(self, path: bytes, line: bytes) -> Sequence[tuple[bytes, bytes]]:
        if not self._lines:
            self._first = path
        self._lines.append(line)
        self._size += len(line)
        if self._size >= MIN_CUT and (self._size >= MAX_CUT or not zlib.crc32(path) & _CUT_MASK):
            return self.rest()
        return ()

    def rest(self) -> Sequence[tuple[bytes, bytes]]:
        """The piece collected so far, if any."""
        if not self._lines:
            return ()
        piece = b"".join(self._lines)
        self._lines, self._size = [], 0
        return ((self._first, piece),)


class TreeChunk(NamedTuple):
    """Where one piece of a tree lies: chunk id, length, pack name (None: the root's own pack), first path."""

    chunk_id: bytes
    length: int
    pack: str | None
    first: bytes


@dataclass(frozen=True, slots=True)
class Root:
    """What a manifest points to: the tree's chunks, the problems met, and what a lost host needs to come back.

    `config` is the configuration of the run as JSON, without secrets; `keys` are the armored public keys of
    recipients, signers and maintainers.
    """

    chunks: Sequence[TreeChunk]
    problems: Sequence[tuple[bytes, str]] = ()
    config: str = ""
    keys: str = ""


def encode_root(root: Root) -> bytes:
    """Canonical JSON of a root."""
    packs = sorted({chunk.pack for chunk in root.chunks if chunk.pack is not None})
    numbers = {name: number for number, name in enumerate(packs)}
    chunks = []
    for chunk in root.chunks:
        value: dict[str, object] = {"id": chunk.chunk_id.hex(), "length": chunk.length}
        _put_bytes(value, "first", chunk.first)
        if chunk.pack is not None:
            value["pack"] = numbers[chunk.pack]
        chunks.append(value)
    problems = []
    for path, message in root.problems:
        problem: dict[str, object] = {"message": message}
        _put_bytes(problem, "path", path)
        problems.append(problem)
    value = {"packs": packs, "chunks": chunks, "problems": problems, "config": root.config, "keys": root.keys}
    return encoding.encode(value)


def decode_root(data: bytes) -> Root:
    """Parse a root; raises Damaged."""
    value = encoding.decode_object(data, what="tree root")
    try:
        packs = [str(name) for name in value["packs"]]
        chunks = [
            TreeChunk(
                _chunk_id(chunk["id"]),
                _natural(chunk["length"]),
                packs[_natural(chunk["pack"])] if "pack" in chunk else None,
                _get_bytes(chunk, "first"),
            )
            for chunk in value["chunks"]
        ]
        problems = [(_get_bytes(problem, "path"), str(problem["message"])) for problem in value["problems"]]
        return Root(chunks, problems, str(value["config"]), str(value["keys"]))
    except (KeyError, TypeError, ValueError, IndexError, binascii.Error) as error:
        raise Damaged(f"malformed tree root: {error}") from error

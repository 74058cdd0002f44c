"""A malicious writer: it holds the signer's key and the format, and keeps none of the promises."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import zstandard

from opskit import encoding
from opskit.repository import index, manifest, names, pack, tree
from opskit.repository.index import Index, IndexedPack
from opskit.repository.manifest import Manifest, Run, Snapshot
from opskit.repository.pack import PackBuffer
from opskit.repository.tree import Root, TreeChunk
from tests.gpg.keys import encrypted
from tests.repositories import HOST, SOURCE, Lab


@dataclass(frozen=True)
class Crafted:
    """What a forged snapshot holds.

    `lines` is the tree, `chunks` are members of the data pack by the id they claim. `packed` replaces what is inside
    the data pack's encryption, `root` the whole root; `described` are the ids that an index object claims for the pack.
    """

    lines: bytes
    chunks: Mapping[bytes, bytes]
    packed: bytes | None = None
    root: bytes | None = None
    described: Sequence[bytes] | None = None


def write(lab: Lab, crafted: Crafted) -> Snapshot:
    """Put a crafted snapshot on every store of a lab, properly signed."""
    run, key = secrets.token_hex(16), secrets.token_hex(32).encode()
    host, objects = lab.keys.host, dict[str, bytes]()
    message = host.encrypt(encoding.encode({run: key.decode()}), lab.keys.recipient_keys)
    key_object = names.sha256(message)
    objects[names.key(key_object)] = message
    plain = compressed(tar_of(crafted.chunks)) if crafted.packed is None else crafted.packed
    data_pack = encrypted(plain, key)
    piece = sha256(crafted.lines).digest()
    root = crafted.root or tree.encode_root(Root([TreeChunk(piece, len(crafted.lines), None, b"")]))
    meta_pack = encrypted(compressed(tar_of({piece: crafted.lines, sha256(root).digest(): root})), key)
    packs = [names.sha256(data_pack), names.sha256(meta_pack)]
    objects |= dict(zip(map(names.pack, packs), (data_pack, meta_pack), strict=True))
    indexes = []
    if crafted.described is not None:
        ids = b"".join(crafted.described)
        payload = index.encode(
            lab.repository, Index(run, key_object, [IndexedPack(packs[0], run, key_object, 1, 1, ids)])
        )
        described = host.sign_and_encrypt(payload, signer=lab.keys.host_key, recipient=lab.keys.host_key, run_key=key)
        indexes = [names.sha256(described)]
        objects[names.index(indexes[0])] = described
    now = lab.now().replace(microsecond=0)
    made = Manifest(
        repository=lab.repository, host=HOST, source=SOURCE, sequence=1, previous=None, started=now, finished=now,
        tags=(), tree_pack=packs[1], tree_member=1, runs=[Run(run, key_object, indexes, sorted(packs))], kit={},
        files=1, entries=1, bytes=1, unreadable=0, complete=True, writer="somebody",
    )  # fmt: skip
    signed = host.sign(manifest.encode(made), lab.keys.host_key)
    snapshot = Snapshot(
        names.snapshot(now, SOURCE, names.sha256(signed)), names.sha256(signed), lab.keys.host_key, made
    )
    objects[snapshot.name] = signed
    for store in lab.stores.values():
        for name, data in objects.items():
            store.put(name, data)
    return snapshot


def tar_of(members: Mapping[bytes, bytes]) -> bytes:
    """A pack's tar, whatever the contents say of the ids."""
    buffer = PackBuffer()
    for chunk_id, content in members.items():
        buffer.append(chunk_id, content)
    return bytes(buffer.tar())


def compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=True).compress(data)


def bomb(claimed: int | None, blocks: int = 32768) -> bytes:
    """A zstd frame of `blocks` times 128 KiB of zeros (RFC 8878, RLE blocks) which claims to hold `claimed` bytes."""
    if claimed is None:
        frame = struct.pack("<IBB", zstandard.MAGIC_NUMBER, 0b0000_0000, 0b0101_0000)
    else:
        frame = struct.pack("<IBBQ", zstandard.MAGIC_NUMBER, 0b1100_0000, 0b0101_0000, claimed)
    block = 128 * 1024 << 3 | 0b010
    return frame + (struct.pack("<I", block)[:3] + b"\0") * (blocks - 1) + struct.pack("<I", block | 1)[:3] + b"\0"


def in_tar(name: bytes, size: bytes, content: bytes) -> bytes:
    """A tar of one member whose header says what it likes."""
    head = pack.header(bytes(32), 0)
    return name.ljust(100, b"\0")[:100] + head[100:124] + size.ljust(12, b"\0")[:12] + head[136:] + content

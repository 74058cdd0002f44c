"""recover.py restores what the project's code backed up, and says so when it cannot."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from opskit.repository import names, tree
from opskit.repository.recovery import kit
from opskit.repository.tree import Node
from tests.recovery.conftest import Made
from tests.recovery.lab import WHEN, Lab, below, blocks, differences, leftovers, run_recover


def test_everything_comes_back(made: Made, tmp_path: Path) -> None:
    """A restored tree equals its source in rsync's eyes, and holes stay holes."""
    done = made.lab.restore(tmp_path / "target")
    assert done.returncode == 0, done.stderr
    restored = below(tmp_path / "target", made.source)
    assert differences(made.source, restored) == ""
    assert blocks(restored / "sparse") <= blocks(made.source / "sparse") + 65536


def test_list_needs_no_key(made: Made) -> None:
    """--list names every snapshot without any key, and says that its signer is not known."""
    done = made.lab.recover("--list")
    assert done.returncode == 0
    assert made.snapshot[:12] in done.stdout and "lab/data" in done.stdout and "UNKNOWN SIGNER" in done.stdout
    listed = made.lab.recover("--list", "--key", made.lab.key)
    assert "signed by a known signer" in listed.stdout


def test_path_restores_a_part(made: Made, tmp_path: Path) -> None:
    """--path restores what lies there, with the attributes of the folders above, and nothing beside."""
    done = made.lab.restore(tmp_path / "target", "--path", f"{made.source}/sub", "--source", "data")
    assert done.returncode == 0, done.stderr
    restored = below(tmp_path / "target", made.source)
    assert [path.name for path in restored.iterdir()] == ["sub"]
    found = differences(made.source / "sub", restored / "sub").splitlines()
    assert all(line.startswith("hf") or "linked" in line for line in found), found
    assert (restored / "sub" / "linked").read_text() == "small\n"


def test_path_that_is_not_there(made: Made, tmp_path: Path) -> None:
    """--path with a path that no chosen snapshot holds ends with 10."""
    assert made.lab.restore(tmp_path / "target", "--path", "/not/there").returncode == 10


def test_newest_complete_snapshot_of_each_source(lab: Lab, tmp_path: Path) -> None:
    """Without --snapshot the newest of each source is restored; --snapshot brings an older one back."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "file").write_text("old")
    first = lab.back_up({"one": one, "two": two})
    (one / "file").write_text("newer")
    lab.back_up({"one": one})
    assert lab.restore(tmp_path / "target").returncode == 0
    assert (below(tmp_path / "target", one) / "file").read_text() == "newer"
    assert (below(tmp_path / "target", two) / "file").read_text() == "old"
    assert lab.restore(tmp_path / "before", "--snapshot", first[0][:8]).returncode == 0
    assert (below(tmp_path / "before", one) / "file").read_text() == "old"
    assert lab.restore(tmp_path / "none", "--snapshot", "0" * 64).returncode == 10


def test_two_hosts_do_not_mix(lab: Lab, tmp_path: Path) -> None:
    """Snapshots of several hosts come back in a folder for each host."""
    source = tmp_path / "data"
    source.mkdir()
    (source / "file").write_text("from alpha")
    lab.back_up({"data": source}, label="alpha")
    (source / "file").write_text("from beta")
    lab.back_up({"data": source}, label="beta")
    assert lab.restore(tmp_path / "target").returncode == 0
    for host in ("alpha", "beta"):
        assert (below(tmp_path / "target" / host, source) / "file").read_text() == f"from {host}"


def test_a_source_that_the_key_does_not_open_hides_no_other(lab: Lab, tmp_path: Path) -> None:
    """Where another host writes for other recipients yet, the rest comes back: 3, and the locked one is named."""
    source = tmp_path / "data"
    source.mkdir()
    (source / "file").write_text("ours")
    lab.back_up({"data": source}, label="beta")
    mine, lab.recipient = lab.recipient, lab.keyring.generate("another recipient")
    (source / "file").write_text("theirs")
    (locked,) = lab.back_up({"data": source}, label="alpha")
    (also,) = lab.back_up({"data": source}, label="gamma")
    lab.recipient = mine
    done = lab.restore(tmp_path / "target")
    assert done.returncode == 3 and locked[:12] in done.stderr and also[:12] in done.stderr
    assert (below(tmp_path / "target" / "beta", source) / "file").read_text() == "ours"
    assert lab.restore(tmp_path / "none", "--snapshot", also).returncode == 12


def test_target_must_be_empty(made: Made, tmp_path: Path) -> None:
    """A target with anything in it is refused with 2 and left as it was."""
    (tmp_path / "mine").write_text("mine")
    done = made.lab.restore(tmp_path)
    assert done.returncode == 2 and "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def packs_of(made: Made) -> tuple[list[str], str]:
    """The packs that hold data, and the one that holds the tree."""
    done = subprocess.run(
        ["gpg", "--no-options", "--homedir", "/nonexistent", "-d", *(made.lab.copy / "snapshots").iterdir()],
        capture_output=True,
    )
    says = json.loads(done.stdout)
    root = says["tree"]["pack"]
    return [pack for run in says["runs"] for pack in run["packs"] if pack != root], root


@pytest.mark.parametrize("harm", ["flipped", "truncated", "missing", "swapped"])
def test_damaged_pack(made: Made, tmp_path: Path, harm: str) -> None:
    """A bad pack costs the files in it, each named, and no others; wrong bytes are never restored; exit 3."""
    copy = made.lab.damaged(harm)
    data, root = packs_of(made)
    path = copy / "packs" / data[0][:2] / data[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "missing":
        path.unlink()
    elif harm == "swapped":
        path.write_bytes((copy / "packs" / root[:2] / root).read_bytes())
    else:
        path.write_bytes(content if harm == "flipped" else content[:-1])
    done = made.lab.restore(tmp_path / "target", copy=copy)
    assert done.returncode == 3
    assert f"cannot restore {made.source}/large" in done.stderr and data[0] in done.stderr
    restored = below(tmp_path / "target", made.source)
    assert not (restored / "large").exists() and (restored / "empty").exists()
    assert (restored / "pipe").is_fifo() and os.readlink(restored / "sub" / "pointer") == "../large"


def test_missing_tree(made: Made, tmp_path: Path) -> None:
    """Without the pack of the root nothing can be restored, and that is said; exit 3."""
    copy = made.lab.damaged("tree")
    root = packs_of(made)[1]
    (copy / "packs" / root[:2] / root).unlink()
    done = made.lab.restore(tmp_path / "target", copy=copy)
    assert done.returncode == 3 and "its tree is missing, damaged or locked" in done.stderr
    assert "1 PROBLEM WAS MET" in done.stderr


def test_truncated_key_object(made: Made, tmp_path: Path) -> None:
    """A truncated key object opens nothing: exit 12, and the object is named."""
    copy = made.lab.damaged("key")
    (key,) = (copy / "keys").iterdir()
    key.write_bytes(key.read_bytes()[:-20])
    done = made.lab.restore(tmp_path / "target", copy=copy)
    assert done.returncode == 12 and key.name in done.stderr and "damaged" in done.stderr


def test_run_key_found_without_the_hint(made: Made, tmp_path: Path) -> None:
    """A run key is found in another key object when the one the manifest names is gone."""
    copy = made.lab.damaged("merged")
    (key,) = (copy / "keys").iterdir()
    plain = made.lab.keyring.decrypt(key.read_bytes()).payload
    key.unlink()
    merged = made.lab.keyring.encrypt(plain, [made.lab.recipient])
    (copy / names.key(names.sha256(merged))).write_bytes(merged)
    done = made.lab.restore(tmp_path / "target", copy=copy)
    assert differences(made.source, below(tmp_path / "target", made.source)) == ""
    assert done.returncode == 0, "it was superseded: that is no problem"


def test_wrong_key(made: Made, lab: Lab, tmp_path: Path) -> None:
    """A private key that is no recipient's opens nothing: exit 12."""
    done = made.lab.recover("--key", lab.key, "--target", tmp_path / "target")
    assert done.returncode == 12 and "the key is for repository" in done.stderr
    (tmp_path / "bare.asc").write_bytes(lab.secret)
    done = made.lab.recover("--key", tmp_path / "bare.asc", "--accept-unknown-signers", "--target", tmp_path / "t2")
    assert done.returncode == 12 and "hint: where gpg has no secret key, this key file is" in done.stderr


def test_key_file_without_private_key(made: Made, tmp_path: Path) -> None:
    """A file without a private key is refused with 12."""
    (tmp_path / "public.asc").write_bytes(made.lab.public)
    done = made.lab.recover("--key", tmp_path / "public.asc", "--target", tmp_path / "target")
    assert done.returncode == 12 and "no private key" in done.stderr


def test_files_that_are_not_there(made: Made, tmp_path: Path) -> None:
    """A key file or a signers' file that is absent is said to be, with 12."""
    for option in ("--key", "--signers"):
        done = made.lab.recover(option, tmp_path / "none.asc", "--list")
        assert done.returncode == 12 and f"there is no file {tmp_path / 'none.asc'}" in done.stderr


def test_bare_key_trusts_nobody(made: Made, tmp_path: Path) -> None:
    """A bare private key restores only when the signer is vouched for: by --signers, or by accepting anyone."""
    bare, signers = tmp_path / "bare.asc", tmp_path / "signers.asc"
    bare.write_bytes(made.lab.secret)
    signers.write_bytes(made.lab.public)
    done = made.lab.recover("--key", bare, "--target", tmp_path / "a")
    assert done.returncode == 13 and made.lab.host in done.stderr and "!!!!" in done.stderr
    assert made.lab.recover("--key", bare, "--signers", signers, "--target", tmp_path / "b").returncode == 0
    assert made.lab.recover("--key", bare, "--accept-unknown-signers", "--target", tmp_path / "c").returncode == 0


def entry(path: bytes, kind: str = "file", **more: object) -> bytes:
    """A tree line that need not be one a backup would write."""
    node = Node(path, kind, 0o644, 0, 0, mtime=1, **more)  # type: ignore[arg-type]
    return tree.encode_line(node).strip()


def test_stranger_signed_snapshot(lab: Lab, tmp_path: Path) -> None:
    """A newer snapshot by a stranger is reported loudly and left out; the good one is restored, exit 3."""
    source = tmp_path / "data"
    source.mkdir()
    (source / "file").write_text("good")
    good = lab.craft([entry(b"srv", "dir"), entry(b"srv/good")])
    stranger = lab.keyring.generate("stranger")
    lab.craft([entry(b"srv", "dir"), entry(b"srv/evil")], signer=stranger, sequence=2)
    done = lab.restore(tmp_path / "target")
    assert done.returncode == 3 and "NOT KNOWN" in done.stderr and good[:12] in done.stderr
    assert [path.name for path in (tmp_path / "target" / "srv").iterdir()] == ["good"]
    assert lab.restore(tmp_path / "all", "--accept-unknown-signers").returncode == 0
    assert [path.name for path in (tmp_path / "all" / "srv").iterdir()] == ["evil"]


def test_wrong_signature(lab: Lab, tmp_path: Path) -> None:
    """A manifest that nobody signed is refused, though its hash is right."""
    lab.craft([entry(b"a")])
    (manifest,) = (lab.copy / "snapshots").iterdir()
    unsigned = subprocess.run(
        ["gpg", "--no-options", "--homedir", lab.keyring.home or "", "--store"],
        input=b'{"format":1}', capture_output=True, check=True,
    ).stdout  # fmt: skip
    manifest.unlink()
    lab.put(names.snapshot(WHEN, "crafted", names.sha256(unsigned)), unsigned)
    done = lab.restore(tmp_path / "target")
    assert done.returncode == 10 and "signature" in done.stderr


@pytest.mark.parametrize(
    "path", [b"../evil", b"/evil", b"a/../../evil", b"a//evil", b"./evil", b"..", b"", b"a/\x00evil"]
)
def test_crafted_paths(lab: Lab, tmp_path: Path, path: bytes) -> None:
    """A signed tree whose paths leave the target is refused entry by entry; the others are restored."""
    lab.craft([entry(path), entry(b"good")])
    target = tmp_path / "deep" / "er" / "target"
    done = lab.restore(target)
    assert done.returncode == 3 and "refused" in done.stderr
    assert not list(tmp_path.rglob("evil")) and not Path("/evil").exists()
    assert (target / "good").exists()


def test_crafted_symlink_parent(lab: Lab, tmp_path: Path) -> None:
    """Nothing is written through a link of the tree, to files or folders, whatever the order of entries."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    target = os.fsencode(outside)
    lines = [
        *(entry(b"a", "symlink", target=target), entry(b"a/file"), entry(b"a/folder", "dir")),
        *(entry(b"b", "symlink", target=target), entry(b"b", "dir"), entry(b"b/file")),
        *(entry(b"c", "dir"), entry(b"c", "symlink", target=target), entry(b"c/file")),
        *(entry(b"d", "symlink", target=target), entry(b"d/pipe", "fifo"), entry(b"d/link", "symlink", target=b"x")),
    ]
    lab.craft(lines)
    before = outside.stat()
    done = lab.restore(tmp_path / "target")
    assert done.returncode == 3
    assert list(outside.iterdir()) == []
    after = outside.stat()
    assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)


def test_wrong_content_in_a_sound_pack(lab: Lab, tmp_path: Path) -> None:
    """A chunk whose content is not what its name says is not written, though pack and signature are good."""
    claimed = hashlib.sha256(b"claimed").digest()
    lab.craft([entry(b"file", size=7, chunks=[(claimed, 7)]), entry(b"good")], [b"swapped"], ids=[claimed])
    done = lab.restore(tmp_path / "target")
    assert done.returncode == 3 and "cannot restore /file" in done.stderr
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["good"]


def test_a_public_key_alone_makes_no_signer(lab: Lab, tmp_path: Path) -> None:
    """A key that lies in the recovery-key file but is not named there as a signer is not believed."""
    lab.craft([entry(b"a")])
    lab.write_key(signers=["0" * 40])
    assert lab.restore(tmp_path / "target").returncode == 13


def test_long_chunk_lists(lab: Lab, tmp_path: Path) -> None:
    """The lines of type "more" continue a file's chunks."""
    content = b"0123456789"
    chunks = [(hashlib.sha256(content).digest(), len(content))] * (tree.MAX_CHUNKS_A_LINE + 5)
    lab.craft([entry(b"file", size=10 * len(chunks), chunks=chunks)], [content])
    done = lab.restore(tmp_path / "target")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target" / "file").read_bytes() == content * len(chunks)


def test_gap_in_the_chain_is_told(lab: Lab, tmp_path: Path) -> None:
    """Missing and doubled sequence numbers are reported."""
    for sequence, name in ((1, b"a"), (4, b"b"), (4, b"c")):
        lab.craft([entry(name)], sequence=sequence)
    done = lab.recover("--list", "--key", lab.key)
    assert "#2 to #3 are not here" in done.stderr and "two snapshots claim to be #4" in done.stderr


def test_no_repository(made: Made, tmp_path: Path) -> None:
    """A folder that is no repository ends with 10, no action at all with 2."""
    assert made.lab.recover("--repository", tmp_path, "--list").returncode == 10
    assert made.lab.recover().returncode == 2


def test_interrupt_removes_the_key(made: Made, tmp_path: Path) -> None:
    """A signal ends it with 130 and leaves no key behind; it comes while a key object is being read (a FIFO here)."""

    slow = tmp_path / "copy"
    slow.mkdir()
    for name in ("snapshots", "keys", "packs"):
        os.symlink(made.lab.copy / name, slow / name)
    (slow / "keys").unlink()
    (slow / "keys").mkdir()
    (name,) = os.listdir(made.lab.copy / "keys")
    os.mkfifo(slow / "keys" / name)
    command = [sys.executable, "-I", "-S", made.lab.copy / "recover.py", "--repository", slow, "--key", made.lab.key]
    with subprocess.Popen([*command, "--target", tmp_path / "target"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "restoring" in process.stderr.readline()
        assert leftovers(process.pid) != []
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    assert leftovers(process.pid) == []


def test_runs_on_python_3_8_alone() -> None:
    """recover.py is Python 3.8 and imports nothing but the standard library."""
    parsed = ast.parse(kit()["recover.py"], feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(parsed) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(parsed) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


def test_kit_is_in_the_copy(made: Made) -> None:
    """The files in a copy are the kit's, byte for byte, and run_recover runs that file."""
    for name, data in kit().items():
        assert (made.lab.copy / name).read_bytes() == data
    assert run_recover(made.lab.copy, "--help").returncode == 0

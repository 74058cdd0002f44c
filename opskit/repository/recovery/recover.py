#!/usr/bin/env python3
"""Restores an opskit repository when opskit is gone: Python 3.8 or newer, `gpg` and `zstd`, no network.

    python3 recover.py --list
    python3 recover.py --key recovery-key.asc --target /some/empty/folder

RECOVER.md, beside this file, says what to do first, and how to do it all by hand. What this program promises:

- Every object is compared with the SHA-256 in its name before gpg sees it, every chunk before it is written.
- The private key lies in a folder in memory, removed at the end, also on Ctrl-C. Plaintext goes to the target only.
- Nothing is written outside the target and no link in it is followed. A file that cannot be restored whole is named
  and removed; all others are restored.

Exit codes: 0 done, 2 usage, 3 done but something is missing, 10 no such repository, snapshot or path, 12 no key opens
it, 13 not signed by a known signer, 21 target full, 130 interrupted. It deliberately repairs nothing in a repository.
"""

import argparse
import base64
import collections
import concurrent.futures
import contextlib
import errno
import getpass
import grp
import hashlib
import json
import os
import pwd
import re
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import zlib
from typing import Any, BinaryIO, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

BLOCK, PACK_LIMIT, SHOWN = 512, 256 << 20, 100
HASH = re.compile("[0-9a-f]{64}")
SNAPSHOT = re.compile(r"([0-9]{8}T[0-9]{6}Z)-([a-z0-9_-]{1,32})-([0-9a-f]{64})\.gpg")
TROUBLE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError)
"""What reading and decoding something damaged or crafted may raise."""
Node = Dict[str, Any]
"""An entry of a tree, as RECOVER.md shows it, with paths and ids as bytes."""
Member = Tuple[bytes, memoryview]
"""A chunk in a pack: its id and its content."""


class Fail(Exception):
    """Ends the program with an exit code; the hint says what to do next."""

    def __init__(self, code: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.code, self.hint = code, hint


class Problems:
    """What is wrong: told at once (the first SHOWN of them), and counted."""

    count = 0

    def add(self, what: str, why: object) -> None:
        self.count += 1
        if self.count <= SHOWN:
            say("PROBLEM: {}: {}{}".format(what, why, " (more are counted only)" if self.count == SHOWN else ""))


def say(text: str) -> None:
    """One line to stderr, without characters that could play tricks on a terminal."""
    print("".join(char if char.isprintable() else ascii(char)[1:-1] for char in text), file=sys.stderr, flush=True)


def banner(*lines: str) -> None:
    for line in ("!" * 100, *lines, "!" * 100):
        say(line)


def shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")


def ways_in(armored: bytes, wanted: int) -> bytes:
    """A message with one kind of way in alone, 1: by private key, 3: by passphrase. Of both, gpg would ask a person."""
    body = armored.replace(b"\r\n", b"\n").partition(b"\n\n")[2].partition(b"\n-----END")[0].partition(b"\n=")[0]
    message, at, kept = base64.b64decode(body) if armored.startswith(b"-----") else armored, 0, b""
    while message[at] & 0xC0 == 0x80 and message[at] >> 2 & 15 in (1, 3):
        wide = 1 << (message[at] & 3)
        end = at + 1 + wide + int.from_bytes(message[at + 1 : at + 1 + wide], "big")
        kept, at = kept + (message[at:end] if message[at] >> 2 & 15 == wanted else b""), end
    return kept + message[at:] if kept else armored


def piped(secret: bytes) -> int:
    """A descriptor to read a secret from: neither argv nor a file ever holds it."""
    reader, writer = os.pipe()
    os.write(writer, secret + b"\n")
    os.close(writer)
    return reader


class Gpg:
    """Runs gpg in a short-lived home; the user's own keys (agent, smartcard) are asked where no key file is given."""

    def __init__(self, key_file: Optional[str], signers_file: Optional[str]) -> None:
        places = [path for path in (f"/run/user/{os.getuid()}", "/dev/shm") if os.access(path, os.W_OK | os.X_OK)]
        if key_file and not places:
            banner("There is no folder in memory (/dev/shm): the private key passes through this machine's disk.")
        self.home = tempfile.mkdtemp(prefix=f"opskit-recover-{os.getpid()}-", dir=places[0] if places else None)
        self.has_key, self.repository, self.passphrase = bool(key_file), "", b""
        with open(os.path.join(self.home, "gpg-agent.conf"), "w") as conf:
            conf.write("disable-scdaemon\nno-allow-external-cache\n")
        self.signers = {line[2] for line in self.take_in(signers_file)}
        if key_file:
            if not any(int(line[1]) & 16 for line in self.take_in(key_file)):
                self.close()
                raise Fail(12, "there is no private key in " + key_file, "give the file that opskit init wrote")
            with open(key_file, encoding="utf-8", errors="replace") as file:
                head = file.read().partition("-----BEGIN")[0]
            fields = dict(re.findall(r"^(repository|signers): *(.*?) *$", head, re.MULTILINE))
            self.signers |= set(fields.get("signers", "").split())
            self.repository = fields.get("repository", "")

    def take_in(self, path: Optional[str]) -> List[List[str]]:
        lines = self.run(["--batch", "--import", "--", path])[2] if path else []
        return [line for line in lines if line[0] == "IMPORT_OK"]

    def close(self) -> None:
        """End the agent and remove the home."""
        for act in (["--kill", "gpg-agent"], ["--remove-socketdir"]):
            with contextlib.suppress(OSError):
                subprocess.run(["gpgconf", "--homedir", self.home, *act], stderr=subprocess.DEVNULL)
        for _ in range(3):  # the dying agent removes its sockets at the same time
            shutil.rmtree(self.home, ignore_errors=True)

    def command(self) -> List[str]:
        return ["gpg", "--no-options", "--homedir", self.home, "--no-permission-warning", "--no-auto-key-locate",
                "--disable-dirmngr", "--trust-model", "always", "--ignore-time-conflict"]  # fmt: skip

    def run(
        self, arguments: List[str], source: bytes = b"", own: bool = False, passed: int = 2
    ) -> Tuple[int, bytes, List[List[str]], str]:
        """One call: exit code, output, status lines (keyword first), what gpg said last."""
        command = ["gpg"] if own else self.command()
        with tempfile.TemporaryFile(dir=self.home) as status:
            command += ["--status-fd", str(status.fileno()), *arguments]
            done = subprocess.run(command, input=source, capture_output=True, pass_fds=[status.fileno(), passed])
            status.seek(0)
            lines = [line.split(" ")[1:] for line in status.read().decode("utf-8", "replace").split("\n")]
        words = "; ".join(done.stderr.decode("utf-8", "replace").split("\n")[-3:]).strip("; ")
        return done.returncode, done.stdout, [line for line in lines if line], words

    def open_private(self, file: BinaryIO) -> bytes:
        """Decrypt a key object; gpg asks for a passphrase where the private key has one, three times at most."""
        message = file.read()
        if self.passphrase:
            reader = piped(self.passphrase)
            how = ["--batch", "--pinentry-mode", "loopback", "--passphrase-fd", str(reader), "--decrypt"]
            code, output, _, log = self.run(how, ways_in(message, 3), passed=reader)
            os.close(reader)
            if code:
                raise ValueError("the passphrase does not open it: " + log)
            return output
        for left in (2, 1, 0):
            how = ["--pinentry-mode", "loopback"] if self.has_key else []
            code, output, lines, log = self.run([*how, "--decrypt"], ways_in(message, 1), own=not self.has_key)
            words, errors = {line[0] for line in lines}, [int(line[2]) for line in lines if line[0] == "ERROR"]
            if code == 0:
                return output
            if not how or not {11, 177} & {number & 0xFFFF for number in errors}:  # a bad passphrase, and none
                if how and "NEED_PASSPHRASE" in words and "BEGIN_DECRYPTION" not in words:
                    raise Fail(12, "the key has a passphrase, and gpg cannot ask: " + log, "run this on a terminal")
                raise ValueError(log)
            say("the passphrase is wrong" + "; once more" * (left > 0))
        raise Fail(12, "no passphrase fitted", "the key file is fine: only its passphrase was not the right one")

    def open_signed(self, file: BinaryIO) -> Tuple[bytes, str, bool]:
        """The payload of a signed object, who signed it, and whether that is a known signer whose signature holds."""
        code, output, lines, log = self.run(["--batch", "--decrypt"], file.read())
        words, valid = [line[0] for line in lines], [line for line in lines if line[0] == "VALIDSIG"]
        once = words.count("PLAINTEXT") == words.count("NEWSIG") == 1
        if not once or {"BADSIG", "REVKEYSIG", "EXPSIG"} & set(words):
            raise ValueError("its signature is wrong: " + log)
        if "NO_PUBKEY" in words and not valid:
            return output, next(line[-1] for line in lines if line[0] in ("ERRSIG", "NO_PUBKEY")), False
        if code != 0 or len(valid) != 1 or not {"GOODSIG", "EXPKEYSIG"} & set(words):
            raise ValueError("it has no valid signature: " + log)
        ends = [int(line[1]) for line in lines if line[0] == "KEYEXPIRED" and line[1:] and line[1].isdigit()]
        if "EXPKEYSIG" in words and int(valid[0][3]) >= min(ends, default=0):
            raise ValueError("it was signed after the signer's key had expired")
        return output, valid[0][-1], valid[0][-1] in self.signers

    def open_pack(self, file: BinaryIO, run_key: bytes) -> bytes:
        """`gpg -d | zstd -d`: the tar inside a pack. The run key goes through a pipe, never through argv or a file."""
        reader = piped(run_key)
        command = [*self.command(), "--batch", "--no-symkey-cache", "--pinentry-mode", "loopback",
                   "--passphrase-fd", str(reader), "--decrypt"]  # fmt: skip
        quiet: Dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        first = subprocess.Popen(command, stdin=file, pass_fds=[reader], **quiet)
        os.close(reader)
        with subprocess.Popen(["zstd", "-dcq"], stdin=first.stdout, **quiet) as second:
            assert first.stdout and second.stdout
            first.stdout.close()
            tar: bytes = second.stdout.read(PACK_LIMIT + 1)
        if second.returncode or first.wait() or len(tar) > PACK_LIMIT:
            raise ValueError("it does not decrypt and decompress")
        return tar


class Snapshot(NamedTuple):
    """A manifest: its id, what it says, who signed it, and whether that is a known signer."""

    id: str
    says: Dict[str, Any]
    signer: str
    known: bool

    def chain(self) -> str:
        return "{host}/{source}".format(**self.says)

    def __str__(self) -> str:
        says = self.says
        state = "complete" if says["complete"] else "{unreadable} FILES UNREADABLE".format(**says)
        about = (self.id[:12], says["sequence"], says["started"], self.chain(), says["files"], says["bytes"], state)
        return "{} #{:<5d} {}  {:24} {:>9d} files {:>16d} bytes  {}".format(*about)


class Repository:
    """One copy of a repository: a folder. Raises what is in TROUBLE for objects that are missing or damaged."""

    def __init__(self, folder: str, gpg: Gpg, problems: Problems) -> None:
        self.folder, self.gpg, self.problems = folder, gpg, problems
        self.opened: Set[str] = set()
        self.run_keys: Dict[str, List[bytes]] = {}
        self.locked: Dict[str, BaseException] = {}

    def check_key(self) -> None:
        """End here, with a clear word, when the key file belongs to another repository."""
        with contextlib.suppress(*TROUBLE), open(os.path.join(self.folder, "opskit.json"), "rb") as file:
            found = json.loads(file.read(1 << 16))["id"]
            if self.gpg.repository not in ("", found):
                hint = "look for the key file of this one, or the copy of that one"
                raise Fail(12, f"the key is for repository {self.gpg.repository}, this is {found}", hint)

    def open(self, name: str) -> BinaryIO:
        """An object, after its bytes have been compared with its name."""
        file = open(os.path.join(self.folder, name), "rb")  # noqa: SIM115 (the caller closes it)
        digest = hashlib.sha256()
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
        if digest.hexdigest() != HASH.findall(name)[-1]:
            file.close()
            raise ValueError("damaged: its bytes do not match its name")
        file.seek(0)
        return file

    def names(self, folder: str) -> List[str]:
        try:
            return sorted(os.listdir(os.path.join(self.folder, folder)))
        except OSError as error:
            why = f"no repository at {self.folder}: {folder}/ {error.strerror}"
            raise Fail(10, why, "say --repository DIR") from error

    def snapshots(self) -> List[Snapshot]:
        """All manifests that can be read, each chain in order; what cannot be read is a problem."""
        found = []
        for name in self.names("snapshots"):
            match = SNAPSHOT.fullmatch(name)
            try:
                if match:
                    found.append(self.snapshot(name, match))
            except TROUBLE as error:
                self.problems.add("snapshots/" + name, error)
        return sorted(found, key=lambda each: (each.chain(), each.says["sequence"], each.id))

    def snapshot(self, name: str, match: "re.Match[str]") -> Snapshot:
        with self.open("snapshots/" + name) as file:
            payload, signer, known = self.gpg.open_signed(file)
        says = json.loads(payload)
        found = (says["format"], says["kind"], re.sub("[-:]", "", says["started"]), says["source"])
        if found != (1, "snapshot", match[1], match[2]):
            raise ValueError("it is not a manifest of format 1 under its own name")
        if says["repository"] != (self.gpg.repository or says["repository"]):
            raise ValueError("it belongs to another repository than the recovery key")
        snapshot = Snapshot(match[3], says, signer, known)
        str(snapshot)  # raises unless all that a listing shows is there
        return snapshot

    def run_of_packs(self, snapshot: Snapshot) -> Dict[str, str]:
        """Pack → the run that made it, for all packs the snapshot needs."""
        found = {}
        for run in snapshot.says["runs"]:
            packs = list(run["packs"])
            for name in run.get("lists", ()):
                try:
                    with self.open("packlists/" + name) as file:
                        packs += file.read().decode("ascii").split()
                except TROUBLE as error:
                    self.problems.add("packlists/" + name, error)
            found.update({pack: str(run["run"]) for pack in packs if HASH.fullmatch(pack)})
        return found

    def unlock(self, snapshot: Snapshot) -> None:
        """Get the run keys: from the key objects that the manifest hints at, else from whichever hold them."""
        hints = {run["run"]: run["key"] + ".asc" for run in snapshot.says["runs"]}
        for name in sorted(set(hints.values())):
            self.open_key(name)
        if not set(hints) <= set(self.run_keys):
            for name in self.names("keys"):
                self.open_key(name)
        if not set(hints) <= set(self.run_keys):  # else what is superseded by others, and gone, is no problem
            for name, error in self.locked.items():
                self.problems.add(name, error)
        if not set(hints) & set(self.run_keys):
            hint = "where gpg has no secret key, this key file is not one of its recipients': try another"
            hint = hint if self.gpg.has_key else "give a recipient's private key with --key FILE"
            raise Fail(12, "no key at hand opens snapshot " + snapshot.id[:12], hint)

    def open_key(self, name: str) -> None:
        if name in self.opened or not re.fullmatch(HASH.pattern + r"\.asc", name):
            return
        self.opened.add(name)
        try:
            with self.open("keys/" + name) as file:
                for run, key in json.loads(self.gpg.open_private(file)).items():
                    self.run_keys.setdefault(run, []).append(key.encode("ascii"))
        except TROUBLE as error:
            self.locked["keys/" + name] = error

    def members(self, pack: str, run: str) -> List[Member]:
        """The chunks in a pack."""
        with self.open(f"packs/{pack[:2]}/{pack}") as file:
            for key in self.run_keys.get(run, ()):
                file.seek(0)
                with contextlib.suppress(ValueError):
                    return list(members(self.gpg.open_pack(file, key)))
        raise ValueError("no run key at hand opens it")

    def read(self, packs: List[str], runs: Dict[str, str]) -> Iterator[List[Member]]:
        """The chunks of each pack that can be opened, two packs at a time; the others are problems."""
        left = collections.deque(packs)
        waiting: Deque[Tuple[str, Any]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            while left or waiting:
                while left and len(waiting) < 3:
                    pack = left.popleft()
                    waiting.append((pack, pool.submit(self.members, pack, runs.get(pack, ""))))
                pack, future = waiting.popleft()
                try:
                    yield future.result()
                except TROUBLE as error:
                    self.problems.add(f"packs/{pack[:2]}/{pack}", error)


def members(tar: bytes) -> Iterator[Member]:
    """(chunk id, content) of each member of a pack."""
    view, position = memoryview(tar), 0
    while position + BLOCK <= len(tar) and tar[position]:
        length = int(tar[position + 124 : position + 135], 8)
        yield (
            bytes.fromhex(tar[position : position + 64].decode("ascii")),
            view[position + BLOCK : position + BLOCK + length],
        )
        position += BLOCK + -(-length // BLOCK) * BLOCK


class Tree:
    """The entries of a snapshot, in order. Pieces are kept compressed in memory: about 100 bytes an entry."""

    def __init__(self, repository: Repository, snapshot: Snapshot, runs: Dict[str, str]) -> None:
        self.problems, place = repository.problems, snapshot.says["tree"]
        chunk_id, content = repository.members(place["pack"], runs[place["pack"]])[place["member"]]
        if hashlib.sha256(content).digest() != chunk_id:
            raise ValueError("the root of the tree is damaged")
        self.root = json.loads(bytes(content))
        names = [*self.root["packs"], place["pack"]]
        wanted = {bytes.fromhex(chunk["id"]) for chunk in self.root["chunks"]}
        self.packs = sorted({names[chunk.get("pack", -1)] for chunk in self.root["chunks"]})
        self.pieces: Dict[bytes, bytes] = {}
        for found in repository.read(self.packs, runs):
            for chunk_id, content in found:
                if chunk_id in wanted and hashlib.sha256(content).digest() == chunk_id:
                    self.pieces[chunk_id] = zlib.compress(content, 1)

    def nodes(self, report: bool) -> Iterator[Node]:
        """All entries, checked; with `report`, what is lost is told."""
        last = b""
        held: Optional[Node] = None
        for chunk in self.root["chunks"]:
            piece = self.pieces.get(bytes.fromhex(chunk["id"]))
            if piece is None and report:
                self.problems.add(
                    "everything from {} on, up to the next part of the tree".format(shown(name_in(chunk, "first"))),
                    "lost",
                )
            for line in zlib.decompress(piece).split(b"\n")[:-1] if piece else ():
                try:
                    node = decoded(line)
                    if node["type"] == "more" and held and held["path"] == node["path"]:
                        held["chunks"] += node["chunks"]
                        continue
                    if node["path"].replace(b"/", b"\0") <= last:
                        raise ValueError("an entry out of order: " + shown(node["path"]))
                except TROUBLE as error:
                    if report:
                        self.problems.add("an entry of the tree is refused", error)
                    continue
                if held:
                    yield held
                held, last = node, node["path"].replace(b"/", b"\0")
        if held:
            yield held


def name_in(value: Dict[str, Any], key: str) -> bytes:
    return base64.b64decode(value[key + "64"]) if key + "64" in value else value[key].encode()


def decoded(line: bytes) -> Node:
    """A line of the tree, with paths and ids as bytes; refuses what could lead out of the target."""
    node: Node = json.loads(line)
    node["path"] = name_in(node, "path")
    if b"\0" in node["path"] or any(part in (b"", b".", b"..") for part in node["path"].split(b"/")):
        raise ValueError("unsafe path {!r}".format(node["path"]))
    node["chunks"] = [(bytes.fromhex(chunk_id), length) for chunk_id, length in node.get("chunks", ())]
    if node["type"] == "file" and "error" not in node:
        node["spans"] = gaps = [(0, 0), *node.get("holes", ()), (node["size"], 0)]
        node["spans"] = [(a + b, c) for (a, b), (c, _) in zip(gaps, gaps[1:])]
        if any(not 0 <= start <= end for start, end in node["spans"]):
            raise ValueError("holes out of order")
    return node


class Folders:
    """Opens folders below the target step by step, never through a link; remembers the last path it went."""

    def __init__(self, root: int, leave: Callable[[bytes, int], None] = lambda path, folder: None) -> None:
        self.steps, self.leave = [(b"", root)], leave

    def at(self, path: bytes, make: bool = False) -> int:
        """A descriptor of the folder at `path`, valid until the next call."""
        while len(self.steps) > 1 and not (path + b"/").startswith(self.steps[-1][0] + b"/"):
            self.up()
        here = self.steps[-1][0]
        for name in path[len(here) :].strip(b"/").split(b"/") if path != here else ():
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=self.steps[-1][1])
            folder = os.open(
                name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.steps[-1][1]
            )
            here = here + b"/" + name if here else name
            self.steps.append((here, folder))
        return self.steps[-1][1]

    def parent(self, path: bytes, make: bool = False) -> Tuple[bytes, int]:
        """The last part of a path, and its folder."""
        folder, _, name = path.rpartition(b"/")
        return name, self.at(folder, make)

    def up(self) -> None:
        path, folder = self.steps.pop()
        self.leave(path, folder)
        os.close(folder)

    def close(self) -> None:
        while len(self.steps) > 1:
            self.up()


class Restore:
    """Restores one snapshot in three passes: make folders and plan files; write chunks; links, owners, modes, times."""

    def __init__(self, repository: Repository, snapshot: Snapshot, root: int, below: bytes, by_name: bool) -> None:
        self.repository, self.problems = repository, repository.problems
        self.root, self.below, self.by_name = root, below, by_name
        repository.unlock(snapshot)
        self.runs = repository.run_of_packs(snapshot)
        self.tree = Tree(repository, snapshot, self.runs)
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.lost: Set[bytes] = set()
        self.count = 0
        self.db.execute("CREATE TABLE files (no INTEGER PRIMARY KEY, path BLOB)")
        self.db.execute("CREATE TABLE links (name TEXT PRIMARY KEY, path BLOB) WITHOUT ROWID")
        columns = "id BLOB, file INT, place INT, start INT, length INT, PRIMARY KEY (id, file, place)"
        self.db.execute(f"CREATE TABLE places ({columns}) WITHOUT ROWID")

    def run(self) -> None:
        self.each(self.plan, Folders(self.root), report=True)
        self.write()
        self.folders: Dict[bytes, Node] = {}
        self.aside = Folders(self.root)
        self.each(self.finish, Folders(self.root, self.leave), report=False)
        self.aside.close()

    def each(self, act: Callable[[Node, Folders], None], folders: Folders, report: bool) -> None:
        for node in self.tree.nodes(report):
            path, below = node["path"] + b"/", self.below + b"/"
            if not self.below or path.startswith(below) or (below.startswith(path) and node["type"] == "dir"):
                try:
                    if node["path"] not in self.lost:
                        act(node, folders)
                        self.count += not report
                except TROUBLE as error:
                    self.fail(node["path"], error)
        folders.close()

    def fail(self, path: bytes, error: Exception) -> None:
        """One entry's trouble is that entry's alone; a full disk is everyone's."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise Fail(21, f"the target cannot be written: {error.strerror}", "free space there, then start again")
        self.lost.add(path)
        self.problems.add("cannot restore " + shown(path), error.strerror if isinstance(error, OSError) else error)

    def plan(self, node: Node, folders: Folders) -> None:
        """Make a folder, or an empty file and a note of where its chunks go."""
        if node["type"] == "dir":
            folders.at(node["path"], make=True)
        elif "error" in node:
            raise ValueError("it could not be read when it was backed up: " + node["error"])
        elif "hardlink" in node and self.first_of(node) != node["path"]:
            return
        elif node["type"] == "file":
            name, folder = folders.parent(node["path"], make=True)
            file = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
            )
            with contextlib.closing(os.fdopen(file, "wb")):
                os.ftruncate(file, node["size"])
            if sum(length for _, length in node["chunks"]) != sum(end - start for start, end in node["spans"]):
                self.lost.add(node["path"])
                raise ValueError("its chunks do not add up to its size")
            number = self.db.execute("INSERT INTO files (path) VALUES (?)", (node["path"],)).lastrowid
            rows = [(chunk_id, number, *place) for chunk_id, *place in places(node)]
            self.db.executemany("INSERT INTO places VALUES (?, ?, ?, ?, ?)", rows)

    def first_of(self, node: Node) -> bytes:
        """The first path of a hardlink group among those that are restored."""
        self.db.execute("INSERT OR IGNORE INTO links VALUES (?, ?)", (node["hardlink"], node["path"]))
        return bytes(self.db.execute("SELECT path FROM links WHERE name = ?", (node["hardlink"],)).fetchone()[0])

    def write(self) -> None:
        """Open each pack once and write its chunks where they belong; what then still waits for a chunk is lost."""
        folders, waiting = Folders(self.root), "SELECT count(*) FROM (SELECT 1 FROM places LIMIT 1)"
        first = [pack for pack in self.runs if pack not in self.tree.packs]
        for done, found in enumerate(self.repository.read([*first, *self.tree.packs], self.runs)):
            for chunk_id, content in found:
                rows = self.db.execute(
                    "SELECT file, place, start, length FROM places WHERE id = ?", (chunk_id,)
                ).fetchall()
                if rows and hashlib.sha256(content).digest() == chunk_id:
                    for number, place, start, length in rows:
                        self.write_piece(number, content[start : start + length], place, folders)
                    self.db.execute("DELETE FROM places WHERE id = ?", (chunk_id,))
            if sys.stderr.isatty():
                print(f"\r{done + 1} of {len(self.runs)} packs", end="\r", file=sys.stderr, flush=True)
            if not self.db.execute(waiting).fetchone()[0]:
                break
        for (path,) in self.db.execute("SELECT DISTINCT path FROM places JOIN files ON no = file ORDER BY path"):
            if path not in self.lost:
                self.fail(path, ValueError("parts of its content are missing or damaged"))
        for path in self.lost:
            with contextlib.suppress(OSError):
                name, folder = folders.parent(path)
                os.unlink(name, dir_fd=folder)
        folders.close()

    def write_piece(self, number: int, piece: memoryview, place: int, folders: Folders) -> None:
        path = self.db.execute("SELECT path FROM files WHERE no = ?", (number,)).fetchone()[0]
        try:
            name, folder = folders.parent(path)
            file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            with contextlib.closing(os.fdopen(file, "wb")):
                while piece:
                    written = os.pwrite(file, piece, place)
                    piece, place = piece[written:], place + written
        except OSError as error:
            self.fail(path, error)

    def finish(self, node: Node, folders: Folders) -> None:
        """Make what is not a file or folder, then owner, mode and so on; folders wait until they are left."""
        if node["type"] == "dir":
            folders.at(node["path"])
            self.folders[node["path"]] = node
            return
        name, folder = folders.parent(node["path"])
        first = self.first_of(node) if "hardlink" in node else node["path"]
        if first != node["path"]:
            old, old_folder = self.aside.parent(first)
            os.link(old, name, src_dir_fd=old_folder, dst_dir_fd=folder, follow_symlinks=False)
            return
        if node["type"] == "symlink":
            os.symlink(name_in(node, "target"), name, dir_fd=folder)
        elif node["type"] in ("fifo", "char", "block"):
            kind = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}[node["type"]]
            os.mknod(name, kind | 0o600, os.makedev(*node.get("device", (0, 0))), dir_fd=folder)
        elif node["type"] == "socket":
            return say("not restored, as its program makes it anew: socket " + shown(node["path"]))
        self.dress(node, name, folder)

    def leave(self, path: bytes, folder: int) -> None:
        if path in self.folders:
            self.dress(self.folders.pop(path), b".", folder)

    def dress(self, node: Node, name: bytes, folder: int) -> None:
        """Owner first, as it clears setuid bits and capabilities; times last. What cannot be set is reported."""
        at: Any = {"dir_fd": folder, "follow_symlinks": False}
        place = b"/proc/self/fd/%d/%s" % (folder, name)
        try:
            if os.geteuid() == 0:
                os.chown(name, *self.owner(node), **at)
            for key, value in node.get("xattrs", ()):
                os.setxattr(place, base64.b64decode(key), base64.b64decode(value), follow_symlinks=False)
            if node["type"] != "symlink":  # a setuid file must not come to act for another user than it did
                keeps = node["type"] == "dir" or os.geteuid() in (0, node["uid"])
                os.chmod(name, node["mode"] & (0o7777 if keeps else 0o1777), dir_fd=folder)
            if "mtime" in node:
                os.utime(name, ns=(node["mtime"], node["mtime"]), **at)
        except TROUBLE as error:
            self.problems.add("owner, attributes, mode or time of " + shown(node["path"]), error)

    def owner(self, node: Node) -> Tuple[int, int]:
        user, group = node["uid"], node["gid"]
        if self.by_name:
            with contextlib.suppress(KeyError):
                user = pwd.getpwnam(node["user"]).pw_uid
            with contextlib.suppress(KeyError):
                group = grp.getgrnam(node["group"]).gr_gid
        return user, group


def places(node: Node) -> Iterator[Tuple[bytes, int, int, int]]:
    """(chunk id, offset in the file, offset in the chunk, length): the chunks fill what lies between the holes."""
    spans = iter(node["spans"])
    place, end = next(spans)
    for chunk_id, left in node["chunks"]:
        start = 0
        while left:
            while place == end:
                place, end = next(spans)
            length = min(left, end - place)
            yield chunk_id, place, start, length
            place, start, left = place + length, start + length, left - length


def report_chains(snapshots: List[Snapshot]) -> None:
    """Say where snapshots are missing from a chain, or two claim one place."""
    for old, new in zip(snapshots, snapshots[1:]):
        if old.chain() == new.chain():
            first, last = old.says["sequence"] + 1, new.says["sequence"] - 1
            if first <= last:
                lacking = f"snapshots #{first} to #{last} are not here: forgotten on purpose, or removed"
                say(f"NOTE: {old.chain()}: {lacking}")
            elif first - last == 1 and new.says["previous"] != old.id:
                say(f"NOTE: {old.chain()}: #{last + 1} does not follow the #{first - 1} that is here")
            elif first - last > 1:
                banner(f"{old.chain()}: two snapshots claim to be #{first - 1}: {old.id[:12]} and {new.id[:12]}")


def choose(snapshots: List[Snapshot], options: argparse.Namespace, problems: Problems) -> List[Snapshot]:
    """The snapshots to restore: the one asked for, or the newest complete one of each host and source."""
    if options.snapshot:
        found = [each for each in snapshots if each.id.startswith(options.snapshot)]
        if len(found) != 1:
            raise Fail(10, f"{len(found)} snapshots have an id like {options.snapshot}…", "--list shows them all")
    else:
        found = [each for each in snapshots if options.source in (None, each.says["source"])]
        if not found:
            raise Fail(10, "no snapshot to restore", "--list shows them all; another copy may hold more")
    strangers = [each for each in found if not each.known]
    if strangers:
        keys = ", ".join(sorted({each.signer for each in strangers}))
        banner(f"{len(strangers)} snapshots are signed by keys NOT KNOWN to be signers: {keys}",
               "Whoever can write to this copy can make such snapshots, with any content.")  # fmt: skip
        if not options.accept_unknown_signers:
            if len(strangers) == len(found):
                hint = (
                    "give the recovery-key file (--key) or the signers' public keys (--signers). If you have neither, "
                    "compare the keys above with your records; if they are yours, say --accept-unknown-signers"
                )
                raise Fail(13, "nothing here is signed by a known signer", hint)
            problems.add("snapshots by unknown signers", "left out; newer ones may be among them, see above")
            found = [each for each in found if each.known]
    report_chains(found)
    best: Dict[str, Snapshot] = {}
    for each in found:  # in order of sequence
        if each.says["complete"] or not best.get(each.chain(), each).says["complete"]:
            best[each.chain()] = each
    for newest in {each.chain(): each for each in found}.values():
        if newest is not best[newest.chain()]:
            banner("A newer snapshot is left out, as it lacks {unreadable} unreadable files:".format(**newest.says),
                   str(newest), "To restore it instead: --snapshot " + newest.id[:12])  # fmt: skip
    return list(best.values())


def open_target(path: str) -> int:
    os.makedirs(path, mode=0o700, exist_ok=True)
    if os.listdir(path):
        raise Fail(2, f"the target {path} is not empty", "choose an empty or a new folder")
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def restore(repository: Repository, chosen: List[Snapshot], options: argparse.Namespace) -> None:
    root, hosts = open_target(options.target), {each.says["host"] for each in chosen}
    if os.geteuid() != 0:
        say("NOTE: you are not root: all files will be yours, and devices cannot be made")
    below, matched = os.fsencode(options.path).strip(b"/"), 0
    for snapshot in chosen:
        say(f"restoring {snapshot!s}")
        place = root
        if len(hosts) > 1:  # two hosts have a folder of the same name each
            with contextlib.suppress(FileExistsError):
                os.mkdir(snapshot.says["host"], 0o700, dir_fd=root)
            place = os.open(snapshot.says["host"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
        trouble = (*TROUBLE, Fail) if matched or snapshot is not chosen[-1] else TROUBLE  # another one may open
        try:
            job = Restore(repository, snapshot, place, below, options.owner_names)
        except trouble as error:
            repository.problems.add(f"snapshot {snapshot.id[:12]}: its tree is missing, damaged or locked", error)
            continue
        if not snapshot.says["complete"]:
            text = "This snapshot is not complete: {unreadable} files could not be read when it was made."
            banner(text.format(**snapshot.says))
        job.run()
        say("restored {} entries of {}".format(job.count, snapshot.says["entries"]))
        matched += job.count + len(job.lost)
    if not matched and not repository.problems.count:
        raise Fail(10, f"the chosen snapshots hold nothing at {options.path}", "paths are whole: --path /srv/data")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Restores an opskit repository without opskit. See RECOVER.md.")
    parser.add_argument("--repository", metavar="DIR", default=os.path.dirname(os.path.abspath(__file__)),
                        help="one copy of the repository (default: the folder this program lies in)")  # fmt: skip
    parser.add_argument("--key", metavar="FILE",
                        help="the recovery-key file; without it, your own gpg keys and smartcards")  # fmt: skip
    parser.add_argument("--passphrase-file", metavar="FILE", help="instead of a private key: the file with the "
                        "passphrase of the backups, if they have one; - asks for it")  # fmt: skip
    parser.add_argument("--signers", metavar="FILE",
                        help="public keys whose signatures to believe, beside those the key file names")  # fmt: skip
    parser.add_argument("--accept-unknown-signers", action="store_true",
                        help="restore snapshots that anyone may have made")  # fmt: skip
    parser.add_argument("--target", metavar="DIR", help="where to restore: an empty or a new folder")
    parser.add_argument("--snapshot", metavar="ID", help="the snapshot to restore, by the first digits of its id")
    parser.add_argument("--source", metavar="NAME", help="restore this source only")
    parser.add_argument("--path", metavar="PATH", default="", help="restore what lies at or below this path only")
    parser.add_argument("--owner-names", action="store_true",
                        help="set owners by name, not by number (needs root, as owners do)")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list the snapshots; needs no private key")
    options = parser.parse_args()
    if not options.list and not options.target:
        parser.error("say --target DIR to restore, or --list")
    return options


def run(options: argparse.Namespace, problems: Problems) -> None:
    for program in ("gpg", "zstd"):
        if not shutil.which(program):
            raise Fail(2, f"the program {program} is needed and not here", "RECOVER.md tells how to get it")
    asked = options.passphrase_file == "-"
    for given in (options.key, options.signers, None if asked else options.passphrase_file):
        if given and not os.path.exists(given):
            raise Fail(12, f"there is no file {given}", "is the medium with the key mounted there?")
    gpg = Gpg(options.key, options.signers)
    try:
        if options.passphrase_file:
            with contextlib.nullcontext() if asked else open(options.passphrase_file, "rb") as file:
                typed = file.readline(4000) if file else getpass.getpass("passphrase of the backups: ").encode()
            gpg.passphrase = typed.rstrip(b"\r\n")
        repository = Repository(options.repository, gpg, problems)
        repository.check_key()
        snapshots = repository.snapshots()
        if options.list:
            report_chains(snapshots)
            for each in snapshots:
                print(each, "signed by a known signer" if each.known else "UNKNOWN SIGNER " + each.signer)
        else:
            restore(repository, choose(snapshots, options, problems), options)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the private key goes first
        gpg.close()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Returns the exit code; the program's only way in."""
    options, problems = parse(), Problems()
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # a folder held open for each level of a deep tree
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        run(options, problems)
    except Fail as error:
        say(f"recover.py: {error}")
        say("hint: " + error.hint)
        return error.code
    except KeyboardInterrupt:
        say("recover.py: interrupted; the target is not complete")
        return 130
    if problems.count:
        met = "1 PROBLEM WAS MET" if problems.count == 1 else f"{problems.count} PROBLEMS WERE MET"
        banner(f"FINISHED, BUT {met}: see the lines that begin with PROBLEM.",
               "Another copy of the repository, or an older snapshot (--snapshot), may hold it.")  # fmt: skip
        return 3
    say("done")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

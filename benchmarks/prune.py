"""`python -m benchmarks.prune`: what forget and prune take for a long history; Markdown to stdout.

The history is made up: signed manifests of as many nightly runs as are asked for, each of which stored some packs of
its own and shares the others with the runs around it, as a source of 100,000 files does. What lies in the packs is
noise, for neither command opens any. Half of the snapshots are forgotten, and what only they need is condemned, by
marks that are older than the grace.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import machine
from benchmarks.measure import Usage, run
from benchmarks.table import markdown
from benchmarks.tools import Opskit, find_opskit
from opskit import wiring
from opskit.config.load import load
from opskit.operations.marking import publish
from opskit.operations.session import Host, open_copies
from opskit.repository import manifest as manifests
from opskit.repository import names
from opskit.repository.manifest import Manifest, Run
from opskit.repository.marks import CONDEMN, FORGET, Mark
from opskit.stores.base import Store

FILES = 100_000
PACKS_A_RUN, RUNS_SHARED = 3, 80
"""A run's own packs, and how many runs' packs a snapshot needs: 240 packs of 32 MiB for 100,000 files."""
DAYS_AGO = 9


class History:
    """A host with many snapshots, of which it knows by their manifests alone."""

    def __init__(self, host: Host, store: Store, snapshots: int) -> None:
        self._host, self._store = host, store
        self._runs: list[Run] = []
        self.ids: list[str] = []
        previous: str | None = None
        begin = datetime.now(UTC).replace(microsecond=0) - timedelta(days=snapshots + 1)
        for number in range(snapshots):
            self._runs.append(self._make_run(number))
            previous = self._make_snapshot(number + 1, previous, begin + timedelta(days=number))
            self.ids.append(previous)

    def needed_until(self, number: int) -> list[str]:
        """The objects that no snapshot after the first so many needs."""
        gone = self._runs[: max(0, number - RUNS_SHARED + 1)]
        return [
            name
            for each in gone
            for name in (names.key(each.key), names.index(each.indexes[0]), *map(names.pack, each.packs))
        ]

    def _put(self, name: str, data: bytes) -> None:
        self._store.put(name, data)

    def _make_run(self, number: int) -> Run:
        key, index, *packs = (os.urandom(1000) for _ in range(PACKS_A_RUN + 2))
        digests = [names.sha256(each) for each in packs]
        self._put(names.key(names.sha256(key)), key)
        self._put(names.index(names.sha256(index)), index)
        for digest, data in zip(digests, packs, strict=True):
            self._put(names.pack(digest), data)
        return Run(f"{number:032x}", names.sha256(key), [names.sha256(index)], sorted(digests))

    def _make_snapshot(self, number: int, previous: str | None, at: datetime) -> str:
        identity, runs = self._host.identity, self._runs[-RUNS_SHARED:]
        made = Manifest(
            self._host.repository, self._host.label, "data", number, previous, at, at, (), runs[-1].packs[0], 0, runs,
            {}, FILES, FILES + 1, 1 << 32, 0, True, "benchmark",
        )  # fmt: skip
        data = identity.keyring.sign(manifests.encode(made), identity.host_key)
        self._put(names.snapshot(at, "data", names.sha256(data)), data)
        return names.sha256(data)


def prepare(config_file: Path, repository: Path, snapshots: int) -> None:
    """Fill the repository of a host that `opskit init` made, and forget half of it some days ago."""
    config = load(config_file)
    host = wiring.host_of(config)
    copies, _ = open_copies(wiring.stores_of(config), host.repository)
    with host.identity.keyring:
        history = History(host, wiring.local_store(repository), snapshots)
        ids = history.ids[: snapshots // 2]
        places = {each: (host.label, "data", number + 1) for number, each in enumerate(ids)}
        created = (datetime.now(UTC) - timedelta(days=DAYS_AGO)).replace(microsecond=0)
        doomed = history.needed_until(len(ids))
        publish(host.identity, copies, Mark(FORGET, host.repository, host.label, created, ids, places=places))
        publish(host.identity, copies, Mark(CONDEMN, host.repository, host.label, created, objects=doomed))
    age(repository)


def age(repository: Path) -> None:
    """Make everything there look as old as the mark."""
    then = datetime.now(UTC).timestamp() - DAYS_AGO * 86400
    for path in repository.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.prune", description=__doc__)
    parser.add_argument("--snapshots", type=int, default=1000)
    parser.add_argument("--opskit", help="the program; else the one beside this interpreter")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/opskit-benchmarks"))
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    program = find_opskit(options.opskit)
    figures: list[tuple[str, Usage]] = []
    with tempfile.TemporaryDirectory(dir=options.work.resolve()) as work:
        home = Path(work)
        (home / "source").mkdir()
        tool = Opskit(program.path, home, home / "source")
        config = home / "opskit.yaml"
        prepare(config, tool.repository, options.snapshots)
        for words in (["forget", "--dry-run"], ["prune", "--dry-run"], ["prune"], ["forget"], ["status"]):
            command = f"{program.path} --config {config} --quiet {' '.join(words)}; test $? -le 3"
            figures.append((" ".join(words), run(["sh", "-c", command], home)))
        left = json.dumps({"objects": sum(path.is_file() for path in tool.repository.rglob("*"))})
        described = machine.describe(home, [program], datetime.now(UTC))
    rows = [[words, f"{each.wall:.2f}", f"{each.cpu:.2f}", f"{each.memory:.0f}"] for words, each in figures]
    print(markdown(["command", "wall s", "CPU s", "peak MiB"], rows, 1))
    print(f"\n{options.snapshots:,} snapshots of {FILES:,} files; half of them forgotten. Left: {left}. {described}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

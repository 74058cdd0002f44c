"""`python -m benchmarks.rekey`: what replacing a recipient takes for a long history; Markdown to stdout.

The history is made up: signed manifests of as many nightly runs as are asked for, each with a real key object of its
own for the first recipient. What lies in the packs is noise, of `--pack` bytes each: no command here opens any, so the
figures stay when that size is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import machine
from benchmarks.measure import Usage, run
from benchmarks.table import markdown
from benchmarks.tools import Opskit, find_opskit
from opskit import encoding, wiring
from opskit.config.load import load
from opskit.operations.session import Host
from opskit.repository import manifest as manifests
from opskit.repository import names
from opskit.repository.manifest import Manifest, Run
from opskit.stores.base import Store

RUNS_SHARED = 80
"""How many runs' packs a snapshot needs."""


def prepare(config_file: Path, repository: Path, runs: int, size: int) -> None:
    """Fill the repository of a host that `opskit init` made."""
    host = wiring.host_of(load(config_file))
    store = wiring.local_store(repository)
    with host.identity.keyring, ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda number: _run(host, store, number, size), range(runs)))
        previous: str | None = None
        begin = datetime.now(UTC).replace(microsecond=0) - timedelta(days=runs + 1)
        for number in range(runs):
            needed, at = made[max(0, number + 1 - RUNS_SHARED) : number + 1], begin + timedelta(days=number)
            manifest = Manifest(
                host.repository, host.label, "data", number + 1, previous, at, at, (), needed[-1].packs[0], 0, needed,
                {}, 1, 2, size, 0, True, "benchmark",
            )  # fmt: skip
            data = host.identity.keyring.sign(manifests.encode(manifest), host.identity.host_key)
            previous = names.sha256(data)
            store.put(names.snapshot(at, "data", previous), data)


def _run(host: Host, store: Store, number: int, size: int) -> Run:
    name, pack = f"{number:032x}", os.urandom(size)
    key = host.identity.keyring.encrypt(encoding.encode({name: os.urandom(32).hex()}), host.identity.recipients)
    store.put(names.key(names.sha256(key)), key)
    store.put(names.pack(names.sha256(pack)), pack)
    return Run(name, names.sha256(key), [], [names.sha256(pack)])


def state_of(repository: Path) -> dict[Path, int]:
    """Every file with its size."""
    return {path: path.stat().st_size for path in repository.rglob("*") if path.is_file()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.rekey", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--pack", type=int, default=1000, help="bytes of each run's data")
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
        config, new = home / "opskit.yaml", home / "new.asc"
        prepare(config, tool.repository, options.runs, options.pack)
        before = state_of(tool.repository)
        rotate = ["keys", "rotate", "--key", str(home / "recovery-key.asc")]
        comes = ["--new-recipient", "New <n@example.org>", "--recovery-key", str(new), "--no-passphrase"]
        again = ["keys", "rotate", "--key", str(new)]
        for title, words in (
            ("keys rotate", [*rotate, *comes]),
            ("keys rotate, again", again),
            ("keys list", ["keys", "list"]),
        ):
            figures.append((title, run([str(program.path), "--config", str(config), "--quiet", *words], home)))
        after = state_of(tool.repository)
        written = sum(size for path, size in after.items() if path not in before)
        told = json.dumps(
            {
                "bytes written": written,
                "a run": round(written / options.runs, 1),
                "key objects": sum(path.parent.name == "keys" for path in after),
            }
        )
        described = machine.describe(home, [program], datetime.now(UTC))
    rows = [[words, f"{each.wall:.2f}", f"{each.cpu:.2f}", f"{each.memory:.0f}"] for words, each in figures]
    print(markdown(["command", "wall s", "CPU s", "peak MiB"], rows, 1))
    print(f"\n{options.runs:,} runs with {options.pack:,} bytes each. {told}. {described}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

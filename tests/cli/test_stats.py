"""`opskit stats`: the numbers of each copy, without any private key."""

from __future__ import annotations

import hashlib
import os

from tests.cli.hosts import Machine, objects, run

KEYS = {"objects", "bytes", "kinds", "packs", "runs", "live_bytes", "dead_bytes", "snapshots", "logical_bytes", "ratio",
        "sources"}  # fmt: skip


def test_the_numbers_are_those_of_the_files(backed_up: Machine) -> None:
    """Objects, bytes and packs of each copy are what lies there; all of it is live, and each source has its line."""
    answer = backed_up.run("stats", "--json")
    assert answer.code == 0 and list(answer.json["destinations"]) == ["a", "b"]
    for name, found in answer.json["destinations"].items():
        files = [path for path in (backed_up.folder / name).rglob("*") if path.is_file()]
        assert found.keys() >= KEYS
        assert (found["objects"], found["bytes"]) == (len(files), sum(path.stat().st_size for path in files))
        assert found["packs"] == found["kinds"]["packs"]["objects"] == len(objects(backed_up.folder / name, "packs"))
        assert (found["live_bytes"], found["dead_bytes"]) == (found["bytes"], 0)
        assert found["sources"]["data"]["snapshots"] == found["snapshots"] == 2


def test_the_words_say_the_same(backed_up: Machine) -> None:
    """For people each copy is a table; --destination shows one of them alone."""
    answer = backed_up.run("stats", "--destination", "b")
    assert answer.code == 0 and answer.out.splitlines()[0] == "b" and "\na\n" not in answer.out
    assert "live, of 2 runs" in answer.out and "dead, needed by none here" in answer.out
    assert "snapshots of data" in answer.out


def test_no_config_is_needed(used: Machine) -> None:
    """One copy and the key file suffice, on a host that knows nothing."""
    used.config.unlink()
    answer = run("stats", "--json", "--repository", used.a, "--key", used.key)
    assert answer.code == 0 and answer.json["destinations"]["repository"]["snapshots"] == 2


def test_an_absent_copy_is_told_and_counts(used: Machine) -> None:
    """With one destination gone the other is shown, with a warning and exit 3."""
    used.b.rename(used.folder / "elsewhere")
    answer = used.run("stats")
    assert answer.code == 3 and "warning: b: " in answer.err and answer.out.startswith("a\n")


def test_leftovers_are_dead(used: Machine) -> None:
    """A pack that no snapshot needs, as a killed run leaves it, is counted as dead."""
    data = os.urandom(1000)
    digest = hashlib.sha256(data).hexdigest()
    (used.a / "packs" / digest[:2]).mkdir(exist_ok=True)
    (used.a / "packs" / digest[:2] / digest).write_bytes(data)
    found = used.run("stats", "--json").json["destinations"]
    assert found["a"]["dead_bytes"] == 1000 and found["b"]["dead_bytes"] == 0


def test_half_a_way_in_is_a_usage_error(used: Machine) -> None:
    """--key without --repository ends with 2: a config needs none."""
    assert used.run("stats", "--key", used.key).code == 2


def test_how_full_the_packs_of_the_newest_are(used: Machine) -> None:
    """A host knows by its last tree how much of the packs its newest snapshot needs; without that nothing is said."""
    for number in range(20):
        (used.source / f"more-{number}").write_bytes(os.urandom(20_000))
    assert used.run("backup").code == 0
    full = used.run("stats", "--json").json["newest"]["data"]
    assert full["needed"] == full["content"] > 400_000 and full["sparse"] == 0
    for number in range(18):
        (used.source / f"more-{number}").write_bytes(os.urandom(20_000))
    assert used.run("backup").code == 0
    found = used.run("stats", "--json").json["newest"]["data"]
    assert found["sparse"] == 1 and found["content"] - found["needed"] >= 18 * 20_000
    assert "1 are sparse" in used.run("stats").out
    for path in (used.folder / "state" / "trees").iterdir():
        path.unlink()
    assert used.run("stats", "--json").json["newest"] == {}

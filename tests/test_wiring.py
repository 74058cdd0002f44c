"""From the config to objects."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from opskit import remotes, wiring
from opskit.config.load import load
from opskit.config.model import Config
from opskit.errors import ConfigError, RepositoryNotFound, SourceError, UsageError
from opskit.repository.identity import write_repository
from opskit.stores.base import Store
from opskit.stores.local import LocalStore
from opskit.stores.memory import MemoryStore
from opskit.stores.wrappers.limits import Limited

KEY = "A" * 40


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two sources, two destinations; state and one copy lie in the first source, which the paths do not show."""
    (tmp_path / "real" / "data" / "state").mkdir(parents=True)
    (tmp_path / "real" / "data" / "copy").mkdir()
    (tmp_path / "alias").symlink_to("real")
    for name in ("keep.txt", "drop.tmp", "state/secret", "copy/pack"):
        (tmp_path / "real" / "data" / name).write_text("x")
    path = tmp_path / "opskit.yaml"
    path.write_text(f"""\
version: 1
state_dir: real/data/state
sources:
  data: {{paths: [alias/data], exclude: ["*.tmp"]}}
  dump: {{command: ["echo", "hello"], filename: dump.sql}}
destinations:
  disk: {{path: real/data/copy}}
  usb: {{path: usb, must_be_mounted: true}}
keys: {{recipients: [{KEY}], host: {KEY}}}
""")
    path.chmod(0o600)
    return load(path)


def test_a_source_never_reads_opskits_own_folders(config: Config) -> None:
    """State and destinations below a source path are recorded as empty folders; excludes hold."""
    source = wiring.source_of("data", config)
    names = {entry.path.rpartition(b"/")[2] for entry in source.entries()}
    assert {b"keep.txt", b"state", b"copy"} <= names
    assert not names & {b"drop.tmp", b"secret", b"pack"}


def test_a_command_source(config: Config) -> None:
    """A command source yields one file of the given name."""
    assert [entry.path for entry in wiring.source_of("dump", config).entries() if entry.kind == "file"] == [b"dump.sql"]


def test_unknown_names(config: Config) -> None:
    """A source or destination that the config does not have is UsageError, naming those it has."""
    with pytest.raises(UsageError, match="data"):
        wiring.source_of("other", config)
    with pytest.raises(UsageError, match="usb"):
        wiring.stores_of(config, ["other"])


def test_stores(config: Config) -> None:
    """Every destination has its store, in the config's order; a choice of names chooses."""
    stores = wiring.stores_of(config)
    assert list(stores) == ["disk", "usb"] and all(isinstance(each, LocalStore) for each in stores.values())
    assert list(wiring.stores_of(config, ["usb"])) == ["usb"]


def test_a_source_that_is_gone(config: Config) -> None:
    """Building a source opens nothing; its absence shows when it is walked."""
    gone = config.sources["data"].but(paths=(Path("/nonexistent/path"),))
    source = wiring.source_of("data", config.but(sources={"data": gone}))
    with pytest.raises(SourceError):
        list(source.entries())


def test_before_init(config: Config) -> None:
    """Without a repository in the state it is RepositoryNotFound, without a host key ConfigError; both with a hint."""
    with pytest.raises(RepositoryNotFound) as caught:
        wiring.host_of(config)
    assert caught.value.hint and "init" in caught.value.hint
    keyless = config.but(keys=config.keys.but(host=None))
    with pytest.raises(ConfigError) as missing:
        wiring.identity_of(keyless)
    assert missing.value.hint and "init" in missing.value.hint


def test_the_host(config: Config) -> None:
    """With a repository in the state the host has its id, roles and folders; signers count with maintainers."""
    write_repository(config.state_dir, b'{"format":1,"id":"abc"}')
    host = wiring.host_of(config)
    assert (host.repository, host.state, host.label) == ("abc", config.state_dir, config.host)
    assert set(host.identity.signers) == {KEY} and list(host.identity.recipients) == [KEY]
    assert host.now().utcoffset() is not None


def test_limits_reach_their_own_direction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`upload_limit` and `download_limit` are KiB a second, each for its own direction; without any nothing waits."""
    path = tmp_path / "opskit.yaml"
    path.write_text(f"""\
version: 1
state_dir: state
sources: {{data: {{paths: [/srv]}}}}
destinations:
  both: {{s3: {{bucket: bucket-both, region: eu-1}}, upload_limit: 3, download_limit: 5}}
  up: {{s3: {{bucket: bucket-up, region: eu-1}}, upload_limit: 7}}
  down: {{s3: {{bucket: bucket-down, region: eu-1}}, download_limit: 11}}
  free: {{s3: {{bucket: bucket-free, region: eu-1}}}}
keys: {{recipients: [{KEY}], host: {KEY}}}
""")
    path.chmod(0o600)
    slept: list[float] = []
    monkeypatch.setattr(remotes, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=slept.append))
    found = {name: rates(store, slept) for name, store in wiring.stores_of(load(path)).items()}
    assert found == {"both": (3 * 1024, 5 * 1024), "up": (7 * 1024, None), "down": (None, 11 * 1024), "free": None}


def rates(store: Store | None, slept: list[float]) -> tuple[float | None, ...] | None:
    """Bytes a second up and down that a store grants, from what its second act of a kind sleeps at a time of 0."""
    while store is not None and not isinstance(store, Limited):
        store = getattr(store, "inner", None)
    if store is None:
        return None
    limited, size = store, 1024 * 1024
    limited.inner = MemoryStore(lambda: 0.0)
    measured: list[float | None] = []
    for act in (lambda name: limited.put(name, bytes(size)), limited.get):
        slept.clear()
        act("first")
        act("second")
        measured.append(size / slept[0] if slept else None)
    return tuple(measured)

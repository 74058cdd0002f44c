"""What is kept of a config that was judged good: when it is believed, and when not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from opskit.config import kept
from opskit.config.load import load
from opskit.config.model import LocalDestination
from opskit.errors import ConfigError
from opskit.secrets.reference import BUILT_IN_SCHEMES

PROJECT = Path(__file__).resolve().parents[2]
TEXT = f"""\
version: 1
state_dir: state
sources:
  data: {{paths: [files], exclude: ["*.tmp"], tags: [a], verify: {{each: [check, "{{file}}"]}}}}
  dump: {{command: [dump, --all], filename: db.sql, env: {{PASSWORD: file:/etc/pass}}}}
destinations: {{disk: {{path: /backup}}, usb: {{path: /mnt/usb, must_be_mounted: true}}}}
policy: {{max_age: 2w}}
keys: {{recipients: [{"A" * 40}], host: {"b" * 40}}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config file."""
    path = tmp_path / "c.yaml"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path


@pytest.fixture
def keep(tmp_path: Path) -> Path:
    """A folder to keep things in, which does not exist yet."""
    return tmp_path / "cache" / "opskit"


def the_file(keep: Path) -> Path:
    """The one file that is kept."""
    (path,) = keep.iterdir()
    return path


def forge(path: Path, old: str, new: str) -> None:
    """Change the values of a kept file, without its digest."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_is_kept_is_what_was_judged(config: Path, keep: Path) -> None:
    """A config from the kept file equals the one that was judged, in all its values and in what the file said."""
    judged = load(config, keep=keep)
    again = load(config, keep=keep)
    assert again == judged == load(config)
    assert again.as_given() == judged.as_given() == load(config).as_given()


WARM = """
import json, sys
from pathlib import Path
from opskit.config.load import load
load(Path(sys.argv[1]), keep=Path(sys.argv[2]))
print(json.dumps(sorted(sys.modules)))
"""


def modules(config: Path, keep: Path) -> set[str]:
    """What a process has loaded after it has loaded the config."""
    run = subprocess.run(
        [sys.executable, "-c", WARM, str(config), str(keep)],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(json.loads(run.stdout))


def test_a_known_config_loads_neither_pydantic_nor_yaml(config: Path, keep: Path) -> None:
    """The first run judges with pydantic; the second one does without."""
    assert {"pydantic", "yaml"} <= modules(config, keep)
    assert modules(config, keep) & {"pydantic", "pydantic_core", "yaml"} == set()


def test_the_file_and_its_folders_are_private(config: Path, keep: Path) -> None:
    """Commands and paths of a config are nobody else's business."""
    load(config, keep=keep)
    assert [path.stat().st_mode & 0o777 for path in (keep.parent, keep, the_file(keep))] == [0o700, 0o700, 0o600]


def test_a_changed_config_is_judged_anew(config: Path, keep: Path) -> None:
    """One other byte and the kept file counts no more: a good config is read anew, a bad one refused."""
    load(config, keep=keep)
    config.write_text(TEXT.replace("/backup", "/backuq"))
    disk = load(config, keep=keep).destinations["disk"]
    assert isinstance(disk, LocalDestination) and disk.path == Path("/backuq")
    config.write_text(TEXT.replace("version: 1", "version: 2"))
    with pytest.raises(ConfigError, match="unsupported value"):
        load(config, keep=keep)


def test_one_config_keeps_one_file(config: Path, keep: Path) -> None:
    """Changing a config replaces what was kept of it, so that nothing piles up."""
    for number in range(3):
        config.write_text(TEXT.replace("/backup", f"/backup{number}"))
        load(config, keep=keep)
    assert the_file(keep)


def neighbours(config: Path, keep: Path, count: int) -> list[Path]:
    """Kept files of other configs, each a second older than the one before; the first is as old as the file system."""
    load(config, keep=keep)
    paths = [keep / f"config-{number:032x}.json" for number in range(count)]
    for age, path in enumerate(paths):
        path.write_text("x")
        path.chmod(0o600)
        os.utime(path, (4_000_000_000 - age, 4_000_000_000 - age))
    return paths


def test_only_the_newest_are_kept(config: Path, keep: Path) -> None:
    """Writing one more removes the oldest beyond sixteen, never the one just written; reading removes nothing."""
    others = neighbours(config, keep, 40)
    load(config, keep=keep)
    assert len(list(keep.iterdir())) == 41
    config.write_text(TEXT.replace("/backup", "/backuq"))
    load(config, keep=keep)
    assert set(keep.iterdir()) == {*others[:15], keep / kept_of(keep, config)._name}
    assert kept_of(keep, config).read() is not None


def test_what_is_not_a_kept_file_of_this_user_stays(config: Path, keep: Path) -> None:
    """Files of other names, links, folders and files of others are neither removed nor counted."""
    others = neighbours(config, keep, 30)
    strange = [keep / "precious", keep / "config-1.json", keep / f"config-{'f' * 32}.json.old"]
    for path in strange:
        path.write_text("x")
    others[28].unlink()
    others[28].symlink_to(keep / "precious")
    others[29].unlink()
    others[29].mkdir()
    strange += others[28:]
    if os.geteuid() == 0:
        os.chown(others[27], 4711, 4711)
        strange.append(others[27])
    for path in strange:
        os.utime(path, (0, 0), follow_symlinks=False)
    config.write_text(TEXT.replace("/backup", "/backuq"))
    load(config, keep=keep)
    assert set(keep.iterdir()) == {*strange, *others[:15], keep / kept_of(keep, config)._name}


def test_the_same_text_elsewhere_is_another_config(config: Path, keep: Path, tmp_path: Path) -> None:
    """Relative paths follow the file, whatever was kept of its twin."""
    load(config, keep=keep)
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "c.yaml"
    twin.write_text(TEXT)
    os.replace(the_file(keep), keep / kept.Kept(keep, twin, b"", ())._name)
    assert load(twin, keep=keep).state_dir == tmp_path / "other" / "state"


def test_a_default_is_taken_when_it_is_used(config: Path, keep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file leaves out is not frozen in what is kept: the machine's processors may change."""
    load(config, keep=keep)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2})
    assert load(config, keep=keep).performance.workers == 3


def kept_of(keep: Path, config: Path) -> kept.Kept:
    """What `load` asks."""
    return kept.Kept(keep, config, config.read_bytes(), BUILT_IN_SCHEMES)


def test_another_program_judges_for_itself(
    config: Path, keep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another version kept, or the same version before its source text changed, counts for nothing."""
    source = tmp_path / "program.py"
    source.write_text("1")
    monkeypatch.setattr(kept, "_PROGRAM", (str(source),))
    load(config, keep=keep)
    assert kept_of(keep, config).read() is not None
    source.write_text("2")
    assert kept_of(keep, config).read() is None
    source.write_text("1")
    monkeypatch.setattr(kept, "__version__", "9")
    assert kept_of(keep, config).read() is None


def test_every_module_that_judges_counts_as_the_program() -> None:
    """A change to any module that has a say in what a config means makes what was kept worthless."""
    folder = PROJECT / "opskit" / "config"
    silent = {"__init__.py", "render.py", "references.py"}  # documentation, the way back, and what is asked afterwards
    assert {path.name for path in folder.glob("*.py")} - silent == {Path(name).name for name in kept._PROGRAM} - {
        "reference.py"
    }
    assert all((folder / name).is_file() for name in kept._PROGRAM)


def as_group_writable(path: Path) -> None:
    path.chmod(0o620)


def as_readable_by_all(path: Path) -> None:
    path.chmod(0o604)


def as_a_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def in_an_open_folder(path: Path) -> None:
    path.parent.chmod(0o777)


def as_a_torn_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def as_an_empty_file(path: Path) -> None:
    path.write_bytes(b"")


def as_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def as_anothers(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: a file of another user cannot be made")
    os.chown(path, 4711, 4711)


def with_other_values(path: Path) -> None:
    forge(path, '"/backup"', '"/forged"')


SPOILT = [
    as_group_writable, as_readable_by_all, as_a_link, in_an_open_folder, as_a_torn_file, as_an_empty_file,
    as_a_pipe, as_anothers, with_other_values,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_file_that_cannot_be_trusted_is_not_read(config: Path, keep: Path, spoil: Callable[[Path], None]) -> None:
    """Foreign, open to others, linked, torn or changed: the config is judged anew, and nothing fails."""
    judged = load(config, keep=keep)
    spoil(the_file(keep))
    assert kept_of(keep, config).read() is None
    assert load(config, keep=keep) == judged


def test_a_spoilt_file_is_replaced(config: Path, keep: Path) -> None:
    """After a file that could not be trusted the next run has a good one, and what a link led to is untouched."""
    load(config, keep=keep)
    path = the_file(keep)
    good = path.read_bytes()
    as_a_link(path)
    path.resolve().write_text("precious")
    load(config, keep=keep)
    assert path.read_bytes() == good and not path.is_symlink()
    assert (keep.parent / "elsewhere").read_text() == "precious"


def test_nothing_is_kept_where_nothing_can_be(config: Path, tmp_path: Path) -> None:
    """A folder that is a file, or below one that is not there, costs the run nothing but time."""
    (tmp_path / "file").write_text("")
    for keep in (tmp_path / "file", tmp_path / "file" / "opskit", tmp_path / "no" / "such" / "opskit"):
        assert load(config, keep=keep) == load(config)
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, the one user who works in the homes of others")
def test_nothing_is_made_in_the_home_of_another(config: Path, tmp_path: Path) -> None:
    """Root with the HOME of a user (sudo) leaves no folder there that the user could not write."""
    for place in (tmp_path / "home", tmp_path / "other" / ".cache"):
        place.mkdir(parents=True)
        os.chown(place, 4711, 4711)
    for keep in (tmp_path / "home" / ".cache" / "opskit", tmp_path / "other" / ".cache" / "opskit"):
        load(config, keep=keep)
        assert not keep.exists() and not (tmp_path / "home" / ".cache").exists()


@pytest.mark.parametrize(
    ("environ", "home", "place"),
    [
        ({}, "/home/ann", Path("/home/ann/.cache/opskit")),
        ({"XDG_CACHE_HOME": "/var/cache/ann"}, "/home/ann", Path("/var/cache/ann/opskit")),
        ({"XDG_CACHE_HOME": ""}, "/home/ann", Path("/home/ann/.cache/opskit")),
        ({"XDG_CACHE_HOME": "here"}, "/home/ann", None),
        ({}, "~", None),
    ],
)
def test_where_things_are_kept(environ: dict[str, str], home: str, place: Path | None) -> None:
    """$XDG_CACHE_HOME, else ~/.cache; a relative place would be another one in each folder, so it is none."""
    assert kept.folder(environ, Path(home)) == place

"""Finding and reading config files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opskit.config import load
from opskit.errors import ConfigError

TEXT = f"""\
version: 1
state_dir: state
sources: {{data: {{paths: [files]}}}}
destinations: {{disk: {{path: /backup}}}}
keys: {{recipients: [{"A" * 40}]}}
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root is protected from the files of others")


def written(path: Path, content: str | bytes = TEXT, mode: int = 0o644) -> Path:
    """A config file of that content and mode."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def refusal(path: Path) -> ConfigError:
    """How `path` is refused."""
    with pytest.raises(ConfigError) as caught:
        load.load(path)
    return caught.value


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    """A relative path means the same wherever opskit is started."""
    assert load.load(written(tmp_path / "c.yaml")).state_dir == tmp_path / "state"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    """A file saved with a UTF-8 byte order mark reads like one without."""
    assert load.load(written(tmp_path / "c.yaml", b"\xef\xbb\xbf" + TEXT.encode()))


def test_bytes_that_are_not_utf8_get_a_position(tmp_path: Path) -> None:
    """The first byte that is not UTF-8 is named with its place, and nothing of the text is repeated."""
    path = written(tmp_path / "c.yaml", b"version: 1\nhost: \xff")
    error = refusal(path)
    assert str(error) == f"{path}:2:7: not UTF-8, expected UTF-8 text, got byte 0xff"
    assert error.__cause__ is None


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    """A file that does not exist is an error with a way out."""
    error = refusal(tmp_path / "c.yaml")
    assert str(error) == f"{tmp_path}/c.yaml: cannot be read: no such file or directory"
    assert error.hint is not None and "opskit init" in error.hint


def test_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    """What is not a regular file is refused, and a pipe without a writer does not hang."""
    os.mkfifo(tmp_path / "pipe")
    assert str(refusal(tmp_path)) == f"{tmp_path}: not a config file: expected a regular file, got a folder"
    assert "got something else" in str(refusal(tmp_path / "pipe"))


def test_huge_files_are_refused(tmp_path: Path) -> None:
    """A file over 1 MiB is refused before it is parsed."""
    path = written(tmp_path / "c.yaml", TEXT + "#" * 1024 * 1024)
    assert str(refusal(path)) == f"{path}: too large: expected at most 1 MiB"


@as_root
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_root_refuses_what_others_may_write(tmp_path: Path, mode: int) -> None:
    """Root does not take commands from a file that its group or others can change."""
    path = written(tmp_path / "c.yaml", mode=mode)
    error = refusal(path)
    assert f"expected mode 0644 or less, got {mode:04o}" in str(error)
    assert error.hint == f"chmod go-w {path}"


@as_root
def test_root_refuses_the_file_of_another(tmp_path: Path) -> None:
    """Root does not take commands from a file that another user owns."""
    path = written(tmp_path / "c.yaml")
    os.chown(path, 65534, -1)
    error = refusal(path)
    assert "expected owner root, got uid 65534" in str(error) and error.hint == f"chown root {path}"


def test_the_first_config_in_order_is_found(tmp_path: Path) -> None:
    """The search goes --config, $OPSKIT_CONFIG, ./opskit.yaml, ~/.config, /etc, and stops at the first."""
    cwd, home, system = tmp_path / "cwd", tmp_path / "home", tmp_path / "etc.yaml"
    (home / ".config" / "opskit").mkdir(parents=True)
    cwd.mkdir()
    written(system)
    environ = {"OPSKIT_CONFIG": "named.yaml"}
    assert load.find_config(None, {}, cwd, home, system) == system
    personal = written(home / ".config" / "opskit" / "opskit.yaml")
    assert load.find_config(None, {"OPSKIT_CONFIG": ""}, cwd, home, system) == personal
    local = written(cwd / "opskit.yaml")
    assert load.find_config(None, {}, cwd, home, system) == local
    assert load.find_config(None, environ, cwd, home, system) == cwd / "named.yaml"
    assert load.find_config(Path("/explicit"), environ, cwd, home, system) == Path("/explicit")


def test_no_config_lists_the_places(tmp_path: Path) -> None:
    """Without any config the error lists where opskit looked and says how to make one."""
    with pytest.raises(ConfigError) as caught:
        load.find_config(None, {}, tmp_path / "cwd", tmp_path / "home", tmp_path / "etc.yaml")
    for place in ("cwd/opskit.yaml", "home/.config/opskit/opskit.yaml", "etc.yaml"):
        assert f"{tmp_path}/{place}" in str(caught.value)
    assert caught.value.hint is not None and "opskit init" in caught.value.hint


def test_the_packages_import_nothing_heavy() -> None:
    """Importing the packages themselves, as the command line does for --help, loads neither pydantic nor yaml."""
    code = (
        "import sys, opskit.config, opskit.secrets.reference; print({'pydantic', 'yaml', 'difflib'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout == "set()\n"

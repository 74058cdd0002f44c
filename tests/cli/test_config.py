"""`opskit config`: what each command shows, writes and refuses."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from opskit.cli import main
from opskit.config.load import parse
from opskit.config.render import example

Capture = pytest.CaptureFixture[str]


def test_validate_counts_what_it_found(config_file: Path, capsys: Capture) -> None:
    """A valid config gives one line on stdout and its risks on stderr."""
    assert main(["config", "validate", "--config", str(config_file)]) == 0
    out, err = capsys.readouterr()
    assert out == f"ok: {config_file}: 1 source, 2 destinations\n"
    assert err.startswith("opskit: warning: keys.recipients: only one recipient")


def test_validate_as_json(config_file: Path, capsys: Capture) -> None:
    """--json gives names and warnings, and stderr stays empty."""
    assert main(["config", "validate", "--json", "--config", str(config_file)]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert (found["ok"], found["file"], found["sources"]) == (True, str(config_file), ["data"])
    assert found["destinations"] == ["disk", "usb"]
    assert any("only one recipient" in warning for warning in found["warnings"])


def test_validate_shows_every_error_at_its_place(config_file: Path, capsys: Capture) -> None:
    """All errors of a config come at once, each with file, line and column; the exit code is 2."""
    config_file.write_text(
        config_file.read_text().replace("version: 1", "version: 9").replace("medium: usb", "medum: usb")
    )
    assert main(["config", "validate", "--config", str(config_file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("opskit: error: ")]
    assert errors[0].startswith(f"opskit: error: {config_file}:1:10: version: ")
    assert any("did you mean 'medium'?" in line for line in errors)


def test_without_a_config_the_way_to_one_is_shown(capsys: Capture) -> None:
    """No config anywhere is exit 2 with a hint at init."""
    assert main(["config", "validate"]) == 2
    assert "opskit: hint: `opskit init` makes one" in capsys.readouterr().err


def test_show_is_a_config_again(config_file: Path, capsys: Capture) -> None:
    """What show prints reads back as the same config; as JSON it holds the defaults too."""
    original = parse(config_file.read_text(), "original", config_file.parent)
    assert main(["config", "show", "--config", str(config_file)]) == 0
    assert parse(capsys.readouterr().out, "shown", Path("/elsewhere")) == original
    assert main(["config", "show", "--json", "--config", str(config_file)]) == 0
    assert json.loads(capsys.readouterr().out)["policy"]["copies"] == original.policy.copies


def test_schema_is_json_schema(capsys: Capture) -> None:
    """The schema is one JSON document that names the top-level keys."""
    assert main(["config", "schema"]) == 0
    assert {"sources", "destinations"} <= set(json.loads(capsys.readouterr().out)["properties"])


def test_generate_writes_the_example_once(tmp_path: Path, capsys: Capture) -> None:
    """The example is written with mode 0600, never over an existing file or through a symlink."""
    path, link = tmp_path / "new.yaml", tmp_path / "link.yaml"
    link.symlink_to(tmp_path / "elsewhere")
    assert main(["config", "generate", str(path)]) == 0
    assert path.read_text() == example() and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("mine")
    assert main(["config", "generate", str(path)]) == 2
    assert main(["config", "generate", str(link)]) == 2
    assert path.read_text() == "mine" and not (tmp_path / "elsewhere").exists()
    assert capsys.readouterr().out == ""


def test_generate_without_a_name_writes_to_stdout(capsys: Capture) -> None:
    """The example can be piped."""
    assert main(["config", "generate"]) == 0
    assert capsys.readouterr().out == example().rstrip("\n") + "\n"


def test_generate_says_why_it_cannot_write(tmp_path: Path, capsys: Capture) -> None:
    """A folder that does not exist is a clear error."""
    assert main(["config", "generate", str(tmp_path / "no" / "x.yaml")]) == 2
    assert "x.yaml: cannot be written: no such file or directory" in capsys.readouterr().err

"""Who can restore, as the config says it: texts are edited and say nothing else afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.config.load import load
from opskit.errors import ConfigError, UsageError
from opskit.setup import recipients

HEAD = "version: 1\nsources: {}\ndestinations: {d: {path: /d}}\n"
A, B, C = ("A" * 40, "B" * 40, "C" * 40)
LAYOUTS = {
    "flow": f'keys: {{recipients: ["{A}", "{B}"], host: "{C}"}}  # said\n',
    "lines": (
        f'keys:\n  host: "{C}"\n  # who\n  recipients:\n    - "{A}"  # one\n    - "{B}"  # other\n'
        f'  # more\n  signers: ["{C}"]\n'
    ),
    "retired": f'keys:\n  retired:\n    - "{C}"\n  recipients: ["{A}", "{B}"]  # who\n',
    "none retired": f'keys:\n  recipients: ["{A}", "{B}"]\n  retired: []\n',
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_config_is_edited_in_place(layout: str, tmp_path: Path) -> None:
    """Recipients and retired change, comments on other lines stay, a second writing changes nothing."""
    path = tmp_path / "opskit.yaml"
    path.write_text(f"# mine\nversion: 1\nsources: {{}}\n{LAYOUTS[layout]}destinations: {{d: {{path: /d}}}}  # kept\n")
    before = load(path)
    wanted = recipients.replaced(before.keys, B, "D" * 40)
    assert wanted.recipients == (A, "D" * 40) and wanted.retired[-1] == B
    recipients.write(path, wanted)
    assert load(path).keys == wanted and load(path).destinations == before.destinations
    text = path.read_text()
    assert "# mine" in text and "# kept" in text
    recipients.write(path, wanted)
    assert path.read_text() == text


def test_what_cannot_be_edited_is_left(tmp_path: Path) -> None:
    """An alias stands for something else too: the hint says what to write by hand."""
    path = tmp_path / "opskit.yaml"
    text = HEAD + f'keys: {{recipients: &x ["{A}", "{B}"], signers: *x}}\n'
    path.write_text(text)
    with pytest.raises(ConfigError):
        recipients.write(path, recipients.without(load(path).keys, B))
    assert path.read_text() == text


def test_the_last_recipient_stays(tmp_path: Path) -> None:
    """One who is none, or the only one, is not removed; who comes back is retired no more."""
    path = tmp_path / "opskit.yaml"
    path.write_text(HEAD + f'keys: {{recipients: ["{A}"], retired: ["{B}"]}}\n')
    keys = load(path).keys
    for each in (A, C):
        with pytest.raises(UsageError):
            recipients.without(keys, each)
    assert recipients.with_added(keys, B).retired == ()

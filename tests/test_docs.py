"""The documentation tells the truth: commands, examples, links and exit codes are compared with the code.

Text is read as it lies in the folder; nothing is generated from it, so a person may write it freely.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opskit import errors
from opskit.cli.commands import root
from opskit.repository.recovery import keyfile

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md"))]
FENCED_YAML = re.compile(r"^```ya?ml\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def text_of(page: Path) -> str:
    """A page's text; a page that should exist and does not fails the test that reads it."""
    assert page.is_file(), f"{page.relative_to(PROJECT)} is missing"
    return page.read_text(encoding="utf-8")


def commands() -> dict[str, Any]:
    """Every command of the program, by the words that a person types after `opskit`."""

    def walk(command: Any, words: str) -> Iterator[tuple[str, Any]]:
        for name, child in getattr(command, "commands", {}).items():
            if not child.hidden:
                yield f"{words} {name}".strip(), child
                yield from walk(child, f"{words} {name}".strip())

    program = root()
    # Its commands are loaded when they are asked for; what stands in their places until then has no options.
    program.commands = {name: program.load(name) for name in program.commands}
    return dict(walk(program, ""))


def test_every_command_explains_itself() -> None:
    """Each command, and each of its options, has a help text."""
    found = commands()
    assert len(found) >= 8
    silent = [name for name, command in found.items() if not (command.help or "").strip()]
    for name, command in found.items():
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        silent += [f"{name} {option.opts[0]}" for option in options if not (option.help or "").strip()]
    assert not silent, f"no help text: {silent}"


def test_every_command_is_documented() -> None:
    """Each command appears as `opskit …` in the README or under docs/, and not only in the list of changes."""
    pages = "\n".join(text_of(page) for page in PAGES if page.name != "CHANGELOG.md")
    assert PAGES[0].is_file(), "README.md is missing"
    unknown = [name for name in commands() if not re.search(rf"\bopskit {re.escape(name)}\b", pages)]
    assert not unknown, f"neither README.md nor docs/ shows: {[f'opskit {name}' for name in unknown]}"


def test_documented_commands_exist() -> None:
    """No page shows an `opskit` command, in code, that the program does not have."""
    known = {name.split()[0] for name in commands()}
    shown: dict[str, str] = {}
    for page in PAGES:
        text = text_of(page).replace(keyfile.TITLE, "")  # the first line of a file, not a command
        for block in FENCED.findall(text) + re.findall(r"`opskit [^`]*`", text):
            for word in re.findall(r"(?:^|[`$#;&|] ?|sudo )opskit ([a-z][a-z-]*)", block, re.MULTILINE):
                shown.setdefault(word, page.name)
    assert not shown.keys() - known, {word: page for word, page in shown.items() if word not in known}


def configs() -> list[Any]:
    """Each fenced YAML block that is a whole config."""
    return [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in PAGES
        if page.is_file()
        for number, block in enumerate(FENCED_YAML.findall(page.read_text(encoding="utf-8")), start=1)
        if block.lstrip().startswith("version:")
    ]


@pytest.mark.parametrize("block", configs())
def test_documented_configs_load(block: str, tmp_path: Path) -> None:
    """A config shown to people is accepted by the program as it stands."""
    load = importlib.import_module("opskit.config.load")
    path = tmp_path / "opskit.yaml"
    path.write_text(block, encoding="utf-8")
    path.chmod(0o600)
    load.load(path)


def test_shipped_example_config_loads() -> None:
    """The commented example, as it is shipped, is a valid config."""
    example = PROJECT / "opskit" / "config" / "example.yaml"
    load = importlib.import_module("opskit.config.load")
    load.parse(text_of(example), example.name, PROJECT)


def anchor_of(heading: str) -> str:
    """The fragment that a forge gives a heading: lower case, punctuation dropped, spaces to hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file, or to a heading that the file does not have."""
    broken = []
    prose = FENCED.sub("", text_of(page))
    for link in LINK.findall(prose):
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_relative_to(PROJECT.resolve()) or not target.exists():
            broken.append(link)
        elif fragment and target.suffix == ".md":
            headings = HEADING.findall(FENCED.sub("", text_of(target)))
            broken += [] if fragment in map(anchor_of, headings) else [link]
    return broken


@pytest.mark.parametrize("page", [page.relative_to(PROJECT).as_posix() for page in PAGES])
def test_relative_links_lead_somewhere(page: str) -> None:
    """Every relative link of a page names a file and, with a fragment, a heading in this project."""
    assert not broken_links(PROJECT / page)


def exit_codes() -> dict[int, list[str]]:
    """Every exit code that an exception class carries, with the classes."""
    codes: dict[int, list[str]] = {}
    for name, member in inspect.getmembers(errors, inspect.isclass):
        if issubclass(member, errors.OpskitError):
            codes.setdefault(member.exit_code, []).append(name)
    return codes


def test_exit_codes_are_documented() -> None:
    """The table in docs/operations.md has a row for each exit code of an error, and for 0 and 3."""
    rows = re.findall(r"^\| *`?(\d+)`? *\|", text_of(PROJECT / "docs" / "operations.md"), re.MULTILINE)
    missing = {0, 3, *exit_codes()} - {int(row) for row in rows}
    assert not missing, {code: exit_codes().get(code, []) for code in missing}


def test_error_tree_in_the_docstring_is_the_real_one() -> None:
    """The tree drawn in opskit/errors.py names each class with its own exit code, and no other."""
    drawn = re.findall(r"([A-Z][A-Za-z]+) +(\d+) {2,}", errors.__doc__ or "")
    real = {(name, str(code)) for code, names in exit_codes().items() for name in names}
    assert set(drawn) == real

"""Config → YAML: a whole commented file, entries added to an existing one, the example; and as plain values.

What is written here reads back as the same Config. `add_entries` and `with_lists` edit text, so the user's comments and
layout stay; each reads its own result and refuses rather than leave a file that says something else. None writes to
disk.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node

from opskit.config.entry import Entry
from opskit.config.model import Config, Destination, Source
from opskit.config.syntax import compose, read
from opskit.errors import ConfigError

_PLAIN = re.compile(r"[/A-Za-z][/A-Za-z0-9_.-]*|[1-9][0-9]*[smhdw]")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
WIDTH = 100  # longer entries are written on several lines


def example() -> str:
    """The example config: every key, explained."""
    return Path(__file__).with_name("example.yaml").read_text("utf-8")


def render(config: Config) -> str:
    """The config as commented YAML that `load.parse` reads back as an equal Config."""
    lines = ["# opskit configuration. `opskit config generate` explains every key; `opskit config validate` checks it."]
    for name, key in config.known_keys().items():
        value = getattr(config, name)
        if name in {"environment", "simulated", "rotations", "drills", "performance"} and value == key.value():
            continue
        lines += ["", f"# {key.description}", *_section(name, value)]
    return "\n".join(lines) + "\n"


def values(config: Any) -> Any:
    """The config with all its defaults as values of JSON; secrets stay references."""
    if isinstance(config, Entry):
        return {name: values(getattr(config, name)) for name in config.known_keys()}
    if isinstance(config, dict):
        return {name: values(each) for name, each in config.items()}
    if isinstance(config, tuple):
        return [values(each) for each in config]
    return config if config is None or isinstance(config, bool | int) else str(config)


def add_entries(text: str, sources: Mapping[str, Source], destinations: Mapping[str, Destination]) -> str:
    """`text` with sources and destinations added, everything else untouched.

    Raises ConfigError when `text` is no config, has an entry of that name, or is laid out in a way that cannot be
    edited safely; then the hint says what to add by hand.
    """
    for section, entries in (("sources", sources), ("destinations", destinations)):
        if entries:
            text = _with_entries(text, section, {name: _plain(entry) for name, entry in entries.items()})
    return text


def with_lists(text: str, section: str, wanted: Mapping[str, list[str]]) -> str | None:
    """`text` with lists of a section replaced, everything else untouched; one that is absent comes before the first.

    None where the layout does not allow that safely.
    """
    before, root = read(text).value, compose(text)
    if not isinstance(before, dict) or not isinstance(root, MappingNode):
        return None
    node = next((value for key, value in root.value if key.value == section), None)
    if not isinstance(node, MappingNode) or not node.value:
        return None
    changed = {name: each for name, each in wanted.items() if each != (before[section].get(name) or [])}
    there = {key.value for key, _ in node.value}
    for key, value in reversed(node.value):
        if key.value in changed:
            text = text[: value.start_mark.index] + _flow(changed[key.value]) + text[_end(value) :]
    first = node.value[0][0].start_mark
    between = ", " if node.flow_style else "\n" + " " * first.column
    added = "".join(f"{name}: {_flow(each)}{between}" for name, each in changed.items() if name not in there)
    text = text[: first.index] + added + text[first.index :]
    after = read(text)
    expected = {**before, section: {**before[section], **changed}}
    return None if after.problems or after.value != expected else text


def _section(name: str, value: object) -> list[str]:
    plain = _plain(value, with_defaults=name in {"policy", "retention", "alarms", "keys"})
    if not isinstance(plain, dict) or not plain:
        return [f"{name}: {_flow(plain)}"]
    comments = _comments(value)
    lines = [f"{name}:"]
    for key, entry in plain.items():
        lines += _entry(key, entry, "  ", comments.get(key))
    return lines


def _comments(value: object) -> dict[str, str]:
    return {name: key.description for name, key in value.known_keys().items()} if isinstance(value, Entry) else {}


def _entry(key: str, value: Any, indent: str, comment: str | None = None) -> list[str]:
    """One entry of a block mapping: on one line where it fits."""
    line = f"{indent}{_flow(key)}: {_flow(value)}"
    if len(line) <= WIDTH or not isinstance(value, dict | list) or not value:
        return [f"{line}  # {comment}" if comment else line]
    lines = [f"{indent}# {comment}"] if comment else []
    lines.append(f"{indent}{_flow(key)}:")
    if isinstance(value, dict):
        return lines + [line for name, item in value.items() for line in _entry(name, item, indent + "  ")]
    return lines + [f"{indent}  - {_flow(item)}" for item in value]


def _plain(value: Any, *, with_defaults: bool = False) -> Any:
    """An entry as plain values; fields at their default are left out unless asked for, absent ones always."""
    if isinstance(value, Entry):
        # What tells a kind of entry from the others comes before what it inherits.
        own = type(value).__annotations__
        return {
            name: _plain(found, with_defaults=with_defaults)
            for name, key in sorted(value.known_keys().items(), key=lambda item: item[0] not in own)
            if (found := getattr(value, name)) is not None and (with_defaults or found != key.value())
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int) else str(value)


def _flow(value: Any) -> str:
    """A value in flow style, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _scalar(value)


def _scalar(text: str) -> str:
    # Plain only where readers of YAML 1.1 and 1.2 agree that it is text.
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    quoted: str = yaml.dump(text, default_style='"', allow_unicode=True, width=sys.maxsize)
    return quoted.rstrip("\n")


def _with_entries(text: str, section: str, entries: dict[str, Any]) -> str:
    before = read(text)
    if before.problems or not isinstance(before.value, dict):
        raise ConfigError("not a config that can be edited: expected one that `opskit config validate` accepts")
    existing = before.value.get(section) or {}
    for name in entries:
        if name in existing:
            raise ConfigError(f"{section}.{name} exists: expected a new name")
    edited = _edited(text, section, entries)
    expected = {**before.value, section: {**existing, **entries}}
    after = read(edited)
    if after.problems or after.value != expected:
        by_hand = ", ".join(f"{_flow(name)}: {_flow(entry)}" for name, entry in entries.items())
        raise ConfigError(
            f"the layout of section {section} cannot be edited safely: expected a plain mapping without aliases",
            hint=f"add by hand below {section}: {by_hand}",
        )
    return edited


def _edited(text: str, section: str, entries: dict[str, Any]) -> str:
    root = compose(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    if not isinstance(root, MappingNode):
        return text
    node = next((value for key, value in root.value if key.value == section), None)
    if node is None and root.flow_style:
        return _into_flow(text, root, {section: entries})
    if node is None:
        lines = [f"{section}:", *(line for name, entry in entries.items() for line in _entry(name, entry, "  "))]
        return text + ("" if text.endswith("\n") else newline) + newline.join(["", *lines, ""])
    if isinstance(node, MappingNode) and node.flow_style:
        return _into_flow(text, node, entries)
    # Of an empty section (`sources:` and nothing) the mark stands behind the colon.
    column = node.value[0][0].start_mark.column if isinstance(node, MappingNode) else root.start_mark.column + 2
    lines = [line for name, entry in entries.items() for line in _entry(name, entry, " " * column)]
    return _after_line(text, _end(node), newline, lines)


def _into_flow(text: str, node: MappingNode, entries: dict[str, Any]) -> str:
    inner = _flow(entries)[1:-1]
    if not node.value:
        at = node.start_mark.index + 1
        return text[:at] + inner + text[at:]
    at = _end(node.value[-1][1])
    return f"{text[:at]}, {inner}{text[at:]}"


def _after_line(text: str, index: int, newline: str, lines: list[str]) -> str:
    at = index if text[:index].endswith("\n") else text.find("\n", index) + 1
    if at == 0:
        return newline.join([text, *lines, ""])
    return text[:at] + "".join(line + newline for line in lines) + text[at:]


def _end(node: Node) -> int:
    """Where the text of a node ends. PyYAML ends a block collection only where the next token starts."""
    if isinstance(node, CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, MappingNode) else last)
    return int(node.end_mark.index)

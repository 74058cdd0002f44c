"""Rotations that contradict themselves or one another are errors with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.config.load import parse
from opskit.errors import ConfigError

GOOD = """\
version: 1
sources: {data: {paths: [/srv]}}
destinations: {disk: {path: /backup}}
keys: {recipients: [AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA]}
rotations:
  db:
    secret: gpg:///s.gpg#db
    command: {apply: [a], check: [c]}
    consumers:
      app: {files: {/srv/app.conf: "{value}"}, secrets: ["vault://secret/app#db"], reload: [r]}
    items: {list: [l, "{old_address}"], move: [m, "{item}"], verify: [v, "{item}"], address: [a]}
  other: {secret: "gpg:///s.gpg#other", command: {apply: [a], check: [c]}}
"""
WRONG = [
    (
        "AAAA]}",
        "AAAA], passphrase: 'gpg:///s.gpg#other'}",
        "rotations.other.secret: opens earlier backups",
    ),
    ("gpg:///s.gpg#other", "gpg:///s.gpg#db", "rotations.other.secret: is rotated by 'db' already"),
    ("gpg:///s.gpg#other", "op://vault/item/field", "rotations.other.secret: is only read by opskit"),
    ("gpg:///s.gpg#other", "gpg:///s.gpg#other?stage=previous", "rotations.other.secret: names one value"),
    ("vault://secret/app#db", "gpg:///s.gpg#db", "rotations.db.consumers.app.secrets[0]: is the secret itself"),
    ("vault://secret/app#db", "env:DB", "rotations.db.consumers.app.secrets[0]: is only read by opskit"),
    ("/srv/app.conf", "app.conf", "rotations.db.consumers.app.files.app.conf: is no absolute path"),
    ('[m, "{item}"]', "[m]", "rotations.db.items.move: does not name the item"),
    ('[v, "{item}"]', "[v]", "rotations.db.items.verify: does not name the item"),
    ("{old_address}", "{oldaddress}", "rotations.db.items.list: asks for {oldaddress}"),
    ("{old_address}", "{print}", "old_address; {{print}} is that word in braces"),
    ("{old_address}", "{{old}} {print}", "rotations.db.items.list: asks for {print}"),
    ('[m, "{item}"]', '[m, "{{item}}"]', "rotations.db.items.move: does not name the item"),
    (", address: [a]", "", "rotations.db.items.list: asks for an address"),
    (
        "apply: [a], check: [c]}\n    c",
        "apply: [a], check: [c], keeps_old: true}\n    c",
        "keeps the old value for ever",
    ),
    (", check: [c]}\n    c", "}\n    c", "rotations.db.command.check: missing"),
    ("{apply: [a], check: [c]}}", "{apply: [], check: [c]}}", "rotations.other.command.apply: no program"),
    ("    secret: gpg:///s.gpg#db", "    secret: hunter2", "rotations.db.secret: inline secret"),
]


def test_a_good_one_loads() -> None:
    """The config that the others are made of is accepted."""
    config = parse(GOOD, "opskit.yaml", Path("/etc"))
    assert sorted(config.rotations) == ["db", "other"]
    assert config.rotations["db"].every.days == 30


@pytest.mark.parametrize("word", ["{{print}}", "{{print {old_address}}}", "{{{old_address}}}", "{{x: {{y}}}}"])
def test_doubled_braces_are_no_placeholders(word: str) -> None:
    """A program of awk or jq stands in an argument: `{print}` is written `{{print}}`."""
    config = parse(GOOD.replace("{old_address}", word), "opskit.yaml", Path("/etc"))
    items = config.rotations["db"].items
    assert items is not None
    assert items.list == ("l", word)


@pytest.mark.parametrize(("old", "new", "told"), WRONG, ids=[told for _, _, told in WRONG])
def test_each_contradiction_is_told(old: str, new: str, told: str) -> None:
    """What cannot be meant is refused, with its place, and a value in a wrong place is not repeated."""
    assert GOOD.count(old) == 1, old
    with pytest.raises(ConfigError) as caught:
        parse(GOOD.replace(old, new), "opskit.yaml", Path("/etc"))
    assert told in str(caught.value)
    assert "hunter2" not in str(caught.value)

"""`opskit secrets` with references of every scheme, well and badly: nothing is seen but what `get` is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tests.cli.hosts import Answer, Machine
from tests.cli.sentinels.places import PLACES, Place
from tests.cli.sentinels.stage import Stage
from tests.cli.sentinels.targets import ODD, PLAIN, marked

TELLTALE = """
import base64, html, json, os, shlex, sys, urllib.parse
for name, text in sorted(os.environ.items()):
    if not name.startswith("GIVEN_"):
        continue
    raw = text.encode("utf-8", "surrogateescape")
    forms = [raw, json.dumps(text), json.dumps(text, ensure_ascii=False), json.dumps({name: text}), shlex.quote(text)]
    forms += [urllib.parse.quote(raw), urllib.parse.quote(raw, safe=""), urllib.parse.quote_plus(raw), repr(text)]
    forms += [html.escape(text), raw.hex(), raw.hex().upper()]
    forms += [encode(b"xyz"[:before] + raw) for before in range(3)
              for encode in (base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes)]
    for each in forms:
        for stream in (sys.stdout, sys.stderr):
            stream.buffer.write(b"<" + (each if isinstance(each, bytes) else each.encode()) + b">\\n")
            stream.flush()
"""
"""Writes its secrets in every way that `exec` promises to hide."""


@dataclass
class Drawer:
    """A host, references to a secret of each scheme, the stores among them by scheme."""

    stage: Stage
    references: dict[str, str] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def run(self, *words: str, stdin: str = "", shows: bool = False, is_good: bool = True) -> Answer:
        """`opskit secrets` with its debug log and tracebacks."""
        answer = self.stage.run("--debug", "secrets", *words, stdin=stdin.encode(), shows=shows)
        assert (answer.code == 0) is is_good, answer.err
        return answer

    def secret(self, name: str, between: str = ODD) -> str:
        value = marked(between)
        self.stage.secrets.add(name, value.encode())
        return value

    def leaks(self) -> list[str]:
        for name, place in self.places.items():
            for number, value in enumerate(place.values()):
                self.stage.secrets.add(f"value {number} in {name}", value)
        return self.stage.leaks()


@contextmanager
def drawer(machine: Machine) -> Iterator[Drawer]:
    """Sources are filled; stores are empty."""
    made = Drawer(stage := Stage(machine))
    references, programs = made.references, machine.folder / "programs"
    credentials = machine.folder / "credentials"
    for folder in (programs, credentials):
        folder.mkdir()
    stage.private += [programs, credentials]
    references["file"] = stage.keep("file", marked(f"{ODD}\n").encode())
    references["env"], references["cred"] = "env:IN_THE_ENVIRONMENT", "cred://app"
    (credentials / "app").touch(0o600)
    (credentials / "app").write_text(made.secret("cred"))
    stage.given.add("IN_THE_ENVIRONMENT")
    stage.environ |= {
        "IN_THE_ENVIRONMENT": made.secret("env"), "OPSKIT_CMD_REFERENCES": "yes", "BW_SESSION": made.secret("session"),
        "CREDENTIALS_DIRECTORY": str(credentials), "PATH": f"{programs}:/usr/bin:/bin",
    }  # fmt: skip
    stage.given.add("BW_SESSION")
    references |= {"op": "op://prod/db/password", "bw": "bw://db", "lpass": "lpass://work/db"}
    references["cmd"] = "cmd:" + quote(json.dumps([str(programs / "own")]))
    for name in ("op", "bw", "lpass", "own"):
        value = made.secret(name)
        answer = json.dumps({"name": "db", "login": {"password": value}}) if name == "bw" else value
        program(programs, name, answer)
    with ExitStack() as stack:
        for name, make in PLACES.items():
            made.places[name] = place = stack.enter_context(make(stage))
            stage.environ |= place.environ
            references[name] = place.reference("app")
        yield made


def program(folder: Path, name: str, answer: str) -> None:
    """One that gives an answer; where a file `fails` lies beside it, it writes that and fails."""
    (folder / f"{name}.answer").write_text(answer)
    path = folder / name
    path.write_text(f'#!/bin/sh\ncat "$0.answer"\nif [ -e {folder}/fails ]; then cat "$0.answer" >&2; exit 1; fi\n')
    path.chmod(0o755)


def test_secrets_of_every_scheme_show_nothing(machine: Machine) -> None:
    """Set, listed, tried and handed to a program that writes them in all its ways: they are seen nowhere."""
    with drawer(machine) as made:
        for name in PLACES:
            reference = made.references[name]
            made.run("set", reference, stdin=made.secret(f"first in {name}", PLAIN))
            if name in ("gpg", "dotenv"):
                made.run("set", reference, "--json", *(["--generate"] if name == "gpg" else []), stdin=marked(PLAIN))
        for name in ("file", "cmd", "gpg", "vault"):
            made.run("get", made.references[name], *(["--json"] if name in ("cmd", "vault") else []), shows=True)
        made.run("doctor", "--json", *made.references.values())
        made.run("list", made.references["gpg"].partition("#")[0])
        names = {f"GIVEN_{name.upper().replace('-', '_')}": each for name, each in made.references.items()}
        made.stage.given |= set(names)
        given = [word for name, each in names.items() for word in ("--env", f"{name}={each}")]
        told = made.run("exec", *given, "--", sys.executable, "-S", "-c", TELLTALE)
        assert min(told.data.count(b"[secret]"), told.err.count("[secret]")) > 10 * len(names)
        made.run("exec", *given, "--", "/no/such/program", is_good=False)
        made.run("delete", f"{made.references['gpg']}?stage=previous")
        assert made.leaks() == []
        assert made.stage.strays() == []
        assert made.stage.places_of(b"secrets.gpg") >= {"stdout", "stderr", "argv", "audit"}


def test_sources_that_fail_show_nothing(machine: Machine) -> None:
    """Stores that are closed, lose what they are given or say it again, damaged values: no error tells a secret."""
    with drawer(machine) as made:
        for name, place in made.places.items():
            reference = made.references[name]
            if name != "keyring":
                made.run("set", reference, stdin=made.secret(f"first in {name}", PLAIN))
            place.fails()
            made.run("get", reference, is_good=False)
            made.run("set", reference, "--json", stdin=made.secret(f"refused by {name}", PLAIN), is_good=False)
        made.run("doctor", "--json", *made.references.values(), is_good=False)
        for place in made.places.values():
            place.works()
        made.run("set", made.references["dotenv"], stdin=made.secret("what no .env file keeps"), is_good=False)
        for where in ("vault://secret/app#other", f"{made.references['aws-sm']}#field", "gpg:///nowhere#app"):
            made.run("get", where, is_good=False)
        bytes_, zero = (made.stage.keep(name, end) for name, end in odd_values())
        made.run("get", bytes_, "--json", is_good=False)
        made.run("exec", "--env", f"GIVEN_ZERO={zero}", "--", "true", is_good=False)
        (machine.folder / "file").chmod(0o644)
        (machine.folder / "programs" / "fails").touch()
        for name in ("file", "cmd", "op", "bw", "lpass"):
            made.run("get", made.references[name], is_good=False)
        assert made.leaks() == []
        assert made.stage.strays() == []


def odd_values() -> list[tuple[str, bytes]]:
    """No UTF-8, and with a NUL."""
    return [("bytes", marked().encode() + b"\xff\xfe"), ("zero", marked("\0").encode())]

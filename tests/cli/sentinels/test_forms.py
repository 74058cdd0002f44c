"""The searcher finds every encoding of a secret, and the stage looks into every place: each is tried with a leak."""

from __future__ import annotations

import base64
import html
import json
import shlex
import textwrap
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from opskit.gpg import ephemeral_keyring
from tests.cli.hosts import Machine
from tests.cli.sentinels.forms import Sentinels
from tests.cli.sentinels.stage import Stage
from tests.cli.sentinels.targets import marked

VALUE = "Zk7'q\"u+o/t=e%41 \\ <ü>&✓ $(x) the-end-9"
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
OPEN = serialization.NoEncryption()

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": bytes,
    "its first half": lambda value: value[: len(value) // 2],
    "its last half": lambda value: value[len(value) // 2 :],
    "base64": base64.b64encode,
    "base64 after one": lambda value: base64.b64encode(b":" + value),
    "base64 after two": lambda value: base64.b64encode(b"a:" + value + b"tail"),
    "base64 for URLs": lambda value: base64.urlsafe_b64encode(b"user:" + value),
    "base64 in lines": lambda value: b"\n".join(textwrap.fill(base64.b64encode(value).decode(), 20).encode().split()),
    "base64 in lines in JSON": lambda value: json.dumps(base64.encodebytes(b"x" * 50 + value).decode()).encode(),
    "hexadecimal": lambda value: value.hex().encode(),
    "upper hexadecimal": lambda value: value.hex().upper().encode(),
    "hexadecimal with colons": lambda value: value.hex(":").encode(),
    "hexadecimal in words": lambda value: value.hex(" ", 2).encode(),
    "percent": lambda value: quote(value, safe="").encode(),
    "percent but for slashes": lambda value: quote(value).encode(),
    "percent, lower": lambda value: quote(value, safe="").replace("%C3%BC", "%c3%bc").lower().encode(),
    "of a form": lambda value: quote_plus(value).encode(),
    "JSON": lambda value: json.dumps(value.decode()).encode(),
    "JSON with letters": lambda value: json.dumps(value.decode(), ensure_ascii=False).encode(),
    "JSON in JSON": lambda value: json.dumps(json.dumps({"a": value.decode()})).encode(),
    "a shell": lambda value: shlex.quote(value.decode()).encode(),
    "repr": lambda value: repr(value.decode()).encode(),
    "repr of bytes": lambda value: repr(value).encode(),
    "SQL": lambda value: value.replace(b"'", b"''"),
    "HTML": lambda value: html.escape(value.decode()).encode(),
    "UTF-16": lambda value: value.decode().encode("utf-16"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_searcher_finds_each_encoding(encoding: str) -> None:
    """A secret within other words is found however it is written, and nothing is found where there is none."""
    secrets, value = Sentinels(), VALUE
    if encoding == "percent, lower":
        value = value.lower()
    secrets.add("it", value.encode())
    for start in range(4):
        assert secrets.found_in(b"before"[start:] + b" " + ENCODINGS[encoding](value.encode()) + b" after")
    assert not secrets.found_in(ENCODINGS[encoding](marked().encode()))


def test_the_searcher_knows_what_is_secret_of_a_value() -> None:
    """Of documents their texts but the names, of keys the number, the lines and the DER; the public half is none."""
    secrets = Sentinels()
    document = {"username": "somebody", "access_key_id": "AKIAEXAMPLE", "password": "pass-of-doc"}
    secrets.add("document", json.dumps(document).encode())
    assert secrets.found_in(b"pass-of-doc") and not secrets.found_in(b"somebody AKIAEXAMPLE")
    ssh, tls = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    texts = [
        ssh.private_bytes(PEM, serialization.PrivateFormat.OpenSSH, OPEN),
        tls.private_bytes(PEM, serialization.PrivateFormat.PKCS8, OPEN),
    ]
    public = [
        ssh.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        tls.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    ]
    for text, other in zip(texts, public, strict=True):
        secrets.add("key", json.dumps({"key": text.decode()}).encode())
        assert secrets.found_in(text) and not secrets.found_in(other)
        assert secrets.found_in(text.splitlines()[2])
    with ephemeral_keyring(None) as ring:
        openpgp = ring.generate("Somebody <s@example.org>")
        text, other = ring.export_secret(openpgp), ring.export_public([openpgp])
    secrets.add("key", b"repository: x\n\n" + text + other)
    assert secrets.found_in(text) and not secrets.found_in(other) and not secrets.found_in(b"repository: x")
    assert secrets.found_in(base64.b64decode(b"".join(text.partition(b"\n\n")[2].splitlines()[:-2])))
    number = tls.private_numbers().private_value.to_bytes(32)
    for each in (ssh.private_bytes_raw(), number, number.hex().encode(), base64.b64encode(number)):
        assert secrets.found_in(each)


LEAKS = {
    "stdout": "print(value)",
    "stderr": "print(value, file=sys.stderr)",
    "argv": "subprocess.run(['true', value])",
    "environ": "subprocess.run(['true'], env={'X': value})",
    "own environ": "os.environ['X'] = value",
    "inherited": "os.environ['X'] = value; subprocess.run(['true'])",
    "argv of a grandchild": "subprocess.run(['sh'], input=f\"sh -c 'sleep 0.3; :' sh '{value}'\".encode())",
    "temporary": "(temporary / 'left').write_text(value)",
    "temporary for a moment": "path = temporary / 'x'; path.write_text(value); path.unlink()",
    "state": "(state / 'left').write_text(value)",
    "state for a moment": "x = state / 'x'; x.write_text(value); x.replace(state / 'y'); (state / 'y').write_text('')",
    "audit": "(state / 'audit').mkdir(exist_ok=True); (state / 'audit' / 'left').write_text(value)",
    "file": "pathlib.Path('left').write_text(value)",
    "journal": "(state / 'rotations').mkdir(); sqlite3.connect(state / 'rotations' / 'journal.sqlite').execute("
    "'CREATE TABLE ' + chr(34) + value + chr(34) + ' (x)')",
}
"""Python by which each kind of leak would come about, in a process that counts as opskit."""


@pytest.mark.parametrize("leak", LEAKS)
def test_the_stage_sees_each_kind_of_leak(
    tmp_path_factory: pytest.TempPathFactory, leak: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process shows, says, starts or writes for a moment is found, under the name of the place."""
    machine = Machine(tmp_path_factory.mktemp("leaking"))
    machine.state.mkdir()
    monkeypatch.chdir(machine.folder)
    package = machine.folder / "package" / "opskit"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    package.joinpath("__main__.py").write_text(
        "import os, pathlib, sqlite3, subprocess, sys\nvalue = sys.stdin.read()\n"
        f"state, temporary = pathlib.Path({str(machine.state)!r}), pathlib.Path(os.environ['TMPDIR'])\n{LEAKS[leak]}\n"
    )
    stage, value = Stage(machine, package=package.parent), marked("<ü>")
    stage.secrets.add("it", value.encode())
    answer = stage.run(stdin=value.encode())
    assert answer.code == 0, answer.err
    place = leak.partition(" ")[0].replace("own", "environ").replace("inherited", "environ")
    assert {each.partition(" ")[0] for each in stage.leaks()} == {place}

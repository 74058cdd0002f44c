"""What the contract does not say of TLS keys: which certificates are believed, what the server reads and shows."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opskit.errors import TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.commands import Programs
from opskit.secrets.rotation.targets.tls import Endpoint, TlsKeys, TlsSettings, target
from tests.secrets.rotation.tls_server import NAMES, ROOT, Listening, authority, ca, listening


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Listening]:
    """A server that has no files yet."""
    with listening(tmp_path) as server:
        yield server


def keys(server: Listening, mode: str = "good", **options: Any) -> TlsKeys:
    """The target of that server, with a CA that does so."""
    given: dict[str, Any] = {
        "ca": ca(mode),
        "reload": server.reload,
        "endpoints": (Endpoint("127.0.0.1", server.port),),
    }
    settings = TlsSettings(server.folder, NAMES, **{**given, **options})
    return TlsKeys(settings, Programs({"PATH": os.environ["PATH"]}), time.time)


def in_use(server: Listening) -> str:
    """Where the link leads, relative to the folder."""
    return os.readlink(server.folder / "current")


# The CA


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        ("other-key", "for the new key"),
        ("fewer-names", "app.example.org not among"),
        ("no-names", "not among"),
        ("expired", "valid now"),
        ("too-early", "valid now"),
        ("short", "for 1 days"),
        ("backwards", "for the new key"),
        ("gap", "signed by the next"),
        ("nothing", "PEM"),
    ],
)
def test_a_certificate_that_would_not_serve_is_refused(server: Listening, mode: str, problem: str) -> None:
    """What a CA does wrong is found before anything is written, and said."""
    with pytest.raises(TargetRefused, match=problem):
        keys(server, mode).create(None, 0.0)
    assert not (server.folder / "current").is_symlink()


def test_a_ca_that_fails_is_an_error(server: Listening) -> None:
    """Its own words are told; one that hangs is ended."""
    with pytest.raises(TargetError, match="the CA is closed today"):
        keys(server, "fails").create(None, 0.0)
    with pytest.raises(TargetError, match="did not end in time"):
        keys(server, "hangs", ca_timeout=0.5).create(None, 0.0)


def test_clients_believe_the_server(server: Listening) -> None:
    """A client that trusts the root alone gets the whole chain, for a name of the certificate."""
    made = keys(server).create(None, 0.0)
    keys(server).apply(made, None)
    context = ssl.create_default_context(cafile=authority() / ROOT)
    for name in ("app.example.org", "one.app.example.org", "127.0.0.1"):
        with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
            context.wrap_socket(plain, server_hostname=name).close()


# The files


def test_nobody_else_reads_the_key(server: Listening) -> None:
    """Files have mode 0600 in folders of mode 0700, and hold the key and the chain apart."""
    made = keys(server).create(None, 0.0)
    keys(server).apply(made, None)
    files = server.folder / in_use(server)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files.iterdir()} == {
        "privkey.pem": 0o600,
        "fullchain.pem": 0o600,
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in (files, files.parent)} == {0o700}
    assert (files / "privkey.pem").read_text() + (files / "fullchain.pem").read_text() == made.reveal()


def test_what_a_crash_left_is_made_anew(server: Listening) -> None:
    """Half a version, damaged files and a link that was not moved do no harm, and are gone afterwards."""
    made = keys(server).create(None, 0.0)
    keys(server).apply(made, None)
    version = server.folder / in_use(server)
    (version / "privkey.pem").write_text("half a k")
    (version.parent / f".{version.name}.new").mkdir()
    (server.folder / ".current.new").symlink_to("nowhere")
    keys(server).apply(made, None)
    assert keys(server).verify(made) and [each.name for each in version.parent.iterdir()] == [version.name]
    assert sorted(os.listdir(server.folder)) == ["current", "reload", "versions"]


def test_the_version_in_use_is_never_removed(server: Listening) -> None:
    """Neither by the wrong order of calls nor where both values are one; others go, and nothing else."""
    first, second = (keys(server).create(None, 0.0) for _ in range(2))
    keys(server).apply(first, None)
    for kept in (first, second):
        with pytest.raises(TargetRefused, match="nothing was removed"):
            keys(server).revoke(first, kept, final=True)
    keys(server).apply(second, first)
    with pytest.raises(TargetRefused, match="nothing was removed"):
        keys(server).revoke(first, first, final=True)
    keys(server).revoke(first, second, final=False)
    assert len(os.listdir(server.folder / "versions")) == 2
    keys(server).revoke(first, second, final=True)
    assert [f"versions/{each}" for each in os.listdir(server.folder / "versions")] == [in_use(server)]


def test_a_folder_that_cannot_be_written_is_refused(server: Listening) -> None:
    """A folder that is not there, or a `current` of somebody else's: nothing is switched."""
    made = keys(server).create(None, 0.0)
    (server.folder / "current").mkdir()
    with pytest.raises(TargetRefused, match="cannot be changed"):
        keys(server).apply(made, None)
    gone = Listening(server.folder / "gone", server.port, server.reload)
    with pytest.raises(TargetRefused, match="cannot be changed"):
        keys(gone).apply(made, None)


# The server


def test_files_that_the_server_did_not_read_are_not_enough(server: Listening) -> None:
    """A reload that fails is an error, and one that does nothing is found out by the certificate that is shown."""
    first, second = (keys(server).create(None, 0.0) for _ in range(2))
    keys(server).apply(first, None)
    assert keys(server).verify(first)
    keys(server, reload=("true",)).apply(second, first)
    assert not keys(server).verify(second) and keys(server).verify(first)
    with pytest.raises(TargetError, match="did not take them") as error:
        keys(server, reload=("false",)).apply(second, first)
    assert not isinstance(error.value, TargetRefused)


def test_every_endpoint_counts(server: Listening, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One that shows another certificate decides; one that cannot be asked leaves it open."""
    first, second = (keys(server).create(None, 0.0) for _ in range(2))
    keys(server).apply(first, None)
    here = Endpoint("127.0.0.1", server.port)
    with listening(tmp_path_factory.mktemp("other")) as other:
        there = Endpoint("127.0.0.1", other.port)
        keys(other).apply(second, None)
        assert not keys(server, endpoints=(here, there)).verify(first)
        keys(other).apply(first, None)
        assert keys(server, endpoints=(here, there)).verify(first)
    for endpoints in ((here, there), ()):  # the other one is down by now
        with pytest.raises(TargetError, match="none from") as error:
            keys(server, endpoints=endpoints).verify(first)
        assert not isinstance(error.value, TargetRefused)
    assert not keys(server, endpoints=(there, here)).verify(second)


def test_the_name_of_the_server_is_asked_for(server: Listening) -> None:
    """An endpoint behind an address that several servers share is named, by its host unless the settings say how."""
    keys(server).apply(made := keys(server).create(None, 0.0), None)
    asked = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.folder / "current" / "fullchain.pem", server.folder / "current" / "privkey.pem")
    context.sni_callback = lambda _socket, name, _context: asked.append(name)

    def serve() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            context.wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        assert keys(server, endpoints=(Endpoint("localhost", port),)).verify(made)
        assert keys(server, endpoints=(Endpoint("127.0.0.1", port, "app.example.org"),)).verify(made)
        thread.join()
    assert asked == ["localhost", "app.example.org"]


def test_silence_is_an_error(server: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and says nothing is given up."""
    monkeypatch.setattr(target, "TIMEOUT", 0.3)
    made = keys(server).create(None, 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(TargetError, match="TimeoutError"):
            keys(server, endpoints=(Endpoint("127.0.0.1", silent.getsockname()[1]),)).verify(made)


def test_another_protocol_is_an_error(server: Listening) -> None:
    """A server that speaks, but no TLS, says nothing of the certificate."""
    made = keys(server).create(None, 0.0)

    def greet() -> None:
        connection, _ = plain.accept()
        with connection:
            connection.sendall(b"220 mail.example.org ESMTP\r\n")
            connection.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as plain:
        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(TargetError, match="none from"):
            keys(server, endpoints=(Endpoint("127.0.0.1", plain.getsockname()[1]),)).verify(made)
        thread.join()


# The value


def test_a_value_of_another_shape_is_not_shown(server: Listening) -> None:
    """No PEM, a key alone, certificates alone, two keys, or the certificate of another key: refused, and not quoted."""
    one, two = (keys(server).create(None, 0.0).reveal() for _ in range(2))
    end = one.index("-----BEGIN CERTIFICATE")
    more = two[: two.index("-----BEGIN CERTIFICATE")]
    for value in (
        "hunter2",
        one[:end],
        one[end:],
        one[:end] + more + one[end:],
        more + one[end:],
        one[:60] + one[end:],
    ):
        with pytest.raises(TargetRefused, match="another shape") as error:
            keys(server).apply(Secret(value), None)
        shown = f"{error.value} {error.value.hint} {error.value.__cause__!r} {error.value.__context__!r}"
        assert not any(line in shown for line in value.splitlines() if "-----" not in line)

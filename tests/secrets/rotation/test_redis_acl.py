"""A user of real Redis servers; what all targets keep to is in the contract."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from opskit.errors import ConfigError, OpskitError, ProgramMissing, TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.targets.redis_acl import Node, RedisUser
from tests.secrets.rotation.certificates import certificate
from tests.secrets.rotation.ports import free_port
from tests.secrets.rotation.redis_nodes import RedisNode, digest, redis_nodes, settings
from tests.secrets.rotation.stranger import listening_in, silent

FIRST, SECOND = Secret("first"), Secret("Sent1nel second:wörd")
Pair = tuple[RedisNode, RedisNode]


@pytest.fixture
def nodes() -> Iterator[Pair]:
    with redis_nodes("aclfile", "config") as (one, two):
        yield one, two


def _refusal(act: Callable[[], object]) -> OpskitError:
    """The error of a deed, whose text and traceback hold no password, no hash of one, and no error of the library."""
    with pytest.raises(OpskitError) as caught:
        act()
    text = f"{''.join(traceback.format_exception(caught.value))} {caught.value.hint}"
    assert "Sent1nel" not in text and digest(SECOND.reveal()) not in text and "redis.exceptions" not in text
    return caught.value


def test_servers_see_hashes_alone(nodes: Pair) -> None:
    """Neither a monitor, nor a log, nor a file of any node has a password; an administrator's is not there either."""
    monitors = [
        subprocess.Popen(["redis-cli", "-s", str(each.socket), "MONITOR"], stdout=subprocess.PIPE) for each in nodes
    ]
    target = RedisUser(settings(*nodes))
    for each in monitors:
        assert each.stdout is not None and each.stdout.readline() == b"OK\n"
    target.apply(SECOND, FIRST)
    assert target.verify(SECOND) and not target.verify(Secret("Sent1nel wrong"))
    target.revoke(FIRST, SECOND, final=True)
    shown = b""
    for node, monitor in zip(nodes, monitors, strict=True):
        node.run("PING", "the end")
        assert monitor.stdout is not None
        while b"the end" not in (line := monitor.stdout.readline()):
            shown += line
        monitor.kill()
        monitor.communicate()
        shown += repr((node.run("SLOWLOG", "GET", "-1"), node.run("ACL", "LOG"))).encode()
        shown += b"".join(path.read_bytes() for path in node.folder.iterdir() if path.is_file())
    assert digest(SECOND.reveal()).encode() in shown
    assert b"Sent1nel" not in shown and b"adm:in" not in shown


def test_a_change_is_sent_as_a_hash(nodes: Pair) -> None:
    """Redis 7 hides passwords from its logs, so the bytes on the wire have to tell."""
    with listening_in(nodes[0].socket) as (port, seen):
        target = RedisUser(replace(settings(*nodes), nodes=(Node("127.0.0.1", port, tls=False),)))
        target.apply(SECOND, FIRST)
        target.revoke(FIRST, SECOND, final=True)
    sent = b"".join(seen)
    assert f"#{digest(SECOND.reveal())}".encode() in sent and f"!{digest('first')}".encode() in sent
    assert b"Sent1nel" not in sent and b"first" not in sent


def test_the_user_keeps_all_else(nodes: Pair) -> None:
    """It stays enabled, keeps its rights, and passwords that are not ours."""
    target = RedisUser(settings(*nodes))
    for node in nodes:
        node.run("ACL", "SETUSER", "app", ">another")
    before = [node.user() for node in nodes]
    target.apply(SECOND, FIRST)
    target.revoke(FIRST, SECOND, final=True)
    for node, old in zip(nodes, before, strict=True):
        hashes = {digest("another"), digest(SECOND.reveal())}
        assert set(node.user()["passwords"]) == hashes and node.user()["enabled"]
        assert {**node.user(), "passwords": ()} == {**old, "passwords": ()}


def test_what_was_changed_outlives_a_restart(nodes: Pair) -> None:
    """With a file of users and with a config file, after apply and after revoke."""
    target = RedisUser(settings(*nodes))
    target.apply(SECOND, FIRST)
    _restart(*nodes)
    assert target.verify(SECOND) and target.verify(FIRST)
    target.revoke(FIRST, SECOND, final=False)
    _restart(*nodes)
    assert target.verify(SECOND) and not target.verify(FIRST)


def test_what_was_added_and_not_saved_is_saved_by_a_repetition(nodes: Pair) -> None:
    """A crash between the two leaves a hash that the next start would forget."""
    target = RedisUser(settings(*nodes))
    for node in nodes:
        node.run("ACL", "SETUSER", "app", f"#{digest(SECOND.reveal())}")
    target.apply(SECOND, FIRST)
    _restart(*nodes)
    assert target.verify(SECOND)


def _restart(*nodes: RedisNode) -> None:
    for node in nodes:
        node.stop()
        node.start()


def test_a_node_that_keeps_nothing_is_refused_unless_that_is_accepted() -> None:
    """Its next start would lock the consumers out."""
    with redis_nodes("nowhere") as (node,):
        node.run("ACL", "SETUSER", "default", "nopass")
        error = _refusal(lambda: RedisUser(settings(node)).apply(SECOND, FIRST))
        assert isinstance(error, TargetRefused) and "would forget a new password" in str(error)
        assert node.user()["passwords"] == [digest("first")]
        forgetful = RedisUser(replace(settings(node), may_forget=True))
        forgetful.apply(SECOND, FIRST)
        assert forgetful.verify(SECOND)


def test_accepted_means_by_every_node(nodes: Pair) -> None:
    """A node that did not get the change, or lost it, makes verify say no; a repetition heals it."""
    target = RedisUser(settings(*nodes))
    RedisUser(settings(nodes[0])).apply(SECOND, FIRST)
    assert not target.verify(SECOND)
    target.apply(SECOND, FIRST)
    assert target.verify(SECOND)
    nodes[1].run("ACL", "SETUSER", "app", "resetpass", ">first")
    assert not target.verify(SECOND)
    nodes[0].run("ACL", "SETUSER", "app", "off")
    assert not target.verify(FIRST)


def test_all_nodes_are_asked_before_one_is_changed(nodes: Pair) -> None:
    """A user that is absent, off or without password, a kept value that is not there: nothing changes anywhere."""
    target = RedisUser(settings(*nodes))
    for change in (("DELUSER", "app"), ("SETUSER", "app", "on", "nopass"), ("SETUSER", "app", "resetpass", "off")):
        nodes[1].run("ACL", *change)
        error = _refusal(lambda: target.apply(SECOND, FIRST))
        assert type(error) is TargetRefused and str(nodes[1].socket) in str(error)
    nodes[1].run("ACL", "SETUSER", "app", "on", ">first")
    error = _refusal(lambda: target.revoke(FIRST, SECOND, final=True))
    assert type(error) is TargetRefused and "does not have the password that is to be kept" in str(error)
    assert isinstance(_refusal(lambda: target.revoke(FIRST, FIRST, final=True)), TargetRefused)
    assert nodes[0].user()["passwords"] == [digest("first")]


def test_a_node_that_is_down_is_no_refusal(nodes: Pair) -> None:
    """Nobody can say what it would answer; the others are not changed."""
    target = RedisUser(settings(*nodes))
    nodes[1].stop()
    for act in (
        lambda: target.apply(SECOND, FIRST),
        lambda: target.verify(FIRST),
        lambda: target.verify(SECOND),
        lambda: target.revoke(FIRST, SECOND, final=True),
    ):
        error = _refusal(act)
        assert type(error) is TargetError and str(nodes[1].socket) in str(error)
    assert nodes[0].user()["passwords"] == [digest("first")]


def test_a_node_that_is_silent_is_waited_for_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it does not answer is no refusal either."""
    monkeypatch.setattr("opskit.secrets.rotation.targets.redis_acl.TIMEOUT", 0.2)
    with silent() as port, redis_nodes("aclfile") as (node,):
        target = RedisUser(replace(settings(node), nodes=(Node("127.0.0.1", port, tls=False),)))
        begin = time.monotonic()
        error = _refusal(lambda: target.verify(SECOND))
        assert type(error) is TargetError and f"127.0.0.1:{port}" in str(error) and time.monotonic() - begin < 5


def test_the_administrator_is_refused_or_too_weak(nodes: Pair) -> None:
    """That is a refusal as long as nothing was changed; after the first change it is not."""
    wrong = RedisUser(replace(settings(*nodes), password=lambda: SECOND))
    error = _refusal(lambda: wrong.apply(SECOND, FIRST))
    assert type(error) is not TargetError and isinstance(error, TargetRefused)
    assert "'rotator' cannot log in at" in str(error)
    nodes[0].run("ACL", "SETUSER", "rotator", "-acl|setuser")
    error = _refusal(lambda: RedisUser(settings(*nodes)).apply(SECOND, FIRST))
    assert type(error) is TargetRefused and "it has no right to that" in str(error)
    assert nodes[0].user()["passwords"] == nodes[1].user()["passwords"] == [digest("first")]
    nodes[0].run("ACL", "SETUSER", "rotator", "+acl")
    nodes[1].run("ACL", "SETUSER", "rotator", "-acl|setuser")
    error = _refusal(lambda: RedisUser(settings(*nodes)).apply(SECOND, FIRST))
    assert type(error) is TargetError and "a change before that was made" in str(error)


def test_a_change_that_cannot_be_saved_is_told(nodes: Pair) -> None:
    """The node accepts the value until it starts anew: that is neither done nor refused."""
    nodes[0].run("ACL", "SETUSER", "rotator", "-acl|save")
    error = _refusal(lambda: RedisUser(settings(nodes[0])).apply(SECOND, FIRST))
    assert type(error) is TargetError and "cannot save its users" in str(error)


def test_passwords_cross_a_network_in_tls_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node must show a certificate for its name by a known authority, and speak TLS at all."""
    monkeypatch.setattr("opskit.secrets.rotation.targets.redis_acl.TIMEOUT", 0.7)  # a plain node waits for more
    public, private = certificate(tmp_path)
    port, plain = free_port(), free_port()
    tls = (f"tls-port {port}", f"tls-cert-file {public}", f"tls-key-file {private}", "tls-auth-clients no")
    with redis_nodes("aclfile", options=tls) as (node,), redis_nodes("aclfile") as (other,):
        other.run("CONFIG", "SET", "port", str(plain))
        known = Node("localhost", port, ca_file=str(public))
        assert RedisUser(replace(settings(node), nodes=(known,))).verify(FIRST)
        for place in (replace(known, ca_file=None), replace(known, host="127.0.0.1"), replace(known, port=plain)):
            target = RedisUser(replace(settings(node), nodes=(place,)))
            error = _refusal(lambda target=target: target.verify(FIRST))  # type: ignore[misc]
            assert type(error) is TargetError
        missing = RedisUser(replace(settings(node), nodes=(replace(known, ca_file="/none"),)))
        assert type(_refusal(lambda: missing.verify(FIRST))) is TargetError


def test_settings_must_name_a_node(nodes: Pair) -> None:
    """Of no node at all everything would be true."""
    with pytest.raises(ConfigError, match="expected at least one node"):
        RedisUser(replace(settings(*nodes), nodes=()))


def test_the_library_is_an_extra(nodes: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the message says how to get it."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ProgramMissing) as caught:
        RedisUser(settings(*nodes)).verify(FIRST)
    assert "pip install 'opskit[redis]'" in str(caught.value.hint)

"""`opskit keys list`: roles, private halves and keys that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.gpg import Keyring
from tests.cli.labs import HostLab, lab, parsed

__all__ = ["lab"]

Capture = pytest.CaptureFixture[str]


def test_each_key_once_with_its_roles(lab: HostLab, capsys: Capture) -> None:
    """The recipient's private half is elsewhere; the host's own key signs and is here."""
    assert lab.run("keys", "list", "--json") == 0
    recipient, host = parsed(capsys)
    assert (recipient["roles"], recipient["private_here"], recipient["user_id"]) == (
        ["recipient"],
        False,
        "R <r@example.org>",
    )
    assert (host["roles"], host["private_here"]) == (["signer", "maintainer", "host"], True)
    assert recipient["expires"] is None and recipient["algorithm"] == "ed25519" and recipient["problem"] is None


def test_the_table_says_it_in_words(lab: HostLab, capsys: Capture) -> None:
    """A line for each key with fingerprint, roles and user id; nothing to warn of."""
    assert lab.run("keys", "list") == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and "R <r@example.org>" in out and "signer, maintainer, host" in out
    assert err == ""


def test_a_private_recipient_on_the_host_is_warned_of(
    lab: HostLab, tmp_short: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A recipient whose private half lies in the user's own gpg home draws a warning."""
    monkeypatch.setenv("GNUPGHOME", str(tmp_short / "u"))
    with Keyring(tmp_short / "u") as own:
        own.import_keys(lab.key.read_bytes())
        assert lab.run("keys", "list") == 0
    assert "the private half of a recipient is on this host" in capsys.readouterr().err


def test_an_absent_recipient_is_a_bad_answer(lab: HostLab, capsys: Capture) -> None:
    """A recipient this host has no public key of cannot be encrypted to: exit 3, with the reason."""
    text = lab.config.read_text()
    at = text.index("recipients: [") + len("recipients: [")
    lab.config.write_text(f"{text[:at]}{'A' * 40}, {text[at:]}")
    assert lab.run("keys", "list") == 3
    out, err = capsys.readouterr()
    assert f"{'A' * 40}  recipient" in out and "no such public key on this host" in err
    assert lab.run("keys", "list", "--json") == 3
    assert parsed(capsys)[0]["problem"] == "no such public key on this host"


def test_without_state_nothing_can_be_used(lab: HostLab, capsys: Capture) -> None:
    """With the key ring gone every key of the config is listed and found wanting: exit 3."""
    (lab.root / "state").rename(lab.root / "gone")
    assert lab.run("keys", "list") == 3
    assert "cannot sign" in capsys.readouterr().err

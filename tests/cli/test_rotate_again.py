"""`opskit rotate resume` where a consumer's file was put back to the old value, by configuration management perhaps."""

from __future__ import annotations

from tests.cli.hosts import Machine
from tests.cli.test_rotate import OLD, accepted, current, digest, host, standing, trail  # noqa: F401  # a fixture


def test_a_file_that_was_put_back_is_told_of_and_written_again(host: Machine) -> None:  # noqa: F811
    """`retire` leaves the old value as it is and says who, where and what to do; `resume` does it, and says so."""
    assert host.run("rotate", "run", "db").code == 0
    new, file = current(host), host.folder / "app.conf"
    file.write_text(f"password = {OLD}")
    before = accepted(host)
    retired = host.run("rotate", "retire", "db", "--now")
    assert retired.code == 3
    assert f"app holds another value than the new one in {file}" in retired.err
    assert "`opskit rotate resume db` writes it again" in retired.err
    assert (accepted(host), file.read_text()) == (before, f"password = {OLD}")
    status = host.run("rotate", "status")
    assert status.code == 3
    assert str(file) in status.err
    assert "hint: opskit rotate resume db" in status.err
    resumed = host.run("--quiet", "rotate", "resume", "db")
    assert resumed.code == 0
    assert "db: app does not hold the new value any more, and is told again" in resumed.err
    assert file.read_text() == f"password = {new}"
    assert standing(host)["last"]["state"] == "GRACE", "whoever put it back may do so again: it is waited once more"
    assert [each["tgt"] for each in trail(host) if each["tgt"].endswith("again") and each["out"] == "ok"] == [
        "db consumer app again"
    ]
    assert host.run("rotate", "retire", "db", "--now").code == 0
    assert accepted(host) == {digest(new)}

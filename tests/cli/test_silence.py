"""Commands that only look, where servers take connections and never answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit import buckets, remotes
from tests.cli.hosts import Machine, fill
from tests.stores import gcs_rules, gcs_server, sftp_server, url_servers
from tests.stores.silence import silent

reasons = [each for each in (sftp_server.missing(), url_servers.missing(), gcs_server.missing()) if each]
pytestmark = pytest.mark.skipif(bool(reasons), reason="; ".join(reasons))


@pytest.mark.parametrize("command", ["snapshots", "status", "stats"])
def test_who_only_looks_does_not_wait_long(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each silent destination is asked once, for the short time; all are told, and the rest is shown."""
    pytest.importorskip("azure.storage.blob")
    for module in (remotes, buckets):
        monkeypatch.setattr(module, "BRIEF", 0.7)
    monkeypatch.setenv("AZURE_KEY", "QUJD")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    assert machine.init().code == 0 and machine.run("backup").code == 0
    with silent() as ssh, silent() as dav, silent() as azure, silent() as bucket, silent() as login:
        entries = [
            f"box: {{sftp: {{host: 127.0.0.1, port: {ssh.port}, path: /x, known_hosts: /dev/null}}}}",
            f'dav: {{webdav: {{url: "http://127.0.0.1:{dav.port}/x"}}, parallel: 1}}',
            "az: {azure: {account: abc, container: copies, account_key: env:AZURE_KEY, "
            f'endpoint: "http://127.0.0.1:{azure.port}/abc"}}}}',
            f's3: {{s3: {{bucket: bucket, endpoint: "http://127.0.0.1:{bucket.port}", region: us-east-1}}}}',
            "google: {gcs: {bucket: copies, service_account: env:GOOGLE_KEY, "
            f'endpoint: "http://127.0.0.1:{login.port}"}}}}',
        ]
        monkeypatch.setenv("GOOGLE_KEY", gcs_rules.Rules(address=f"http://127.0.0.1:{login.port}").account("a"))
        machine.edit_config("\ndestinations:\n", "\ndestinations:\n" + "".join(f"  {each}\n" for each in entries))
        answer = machine.run(command)
        said = " ".join((answer.data.decode() + answer.err).split())
        assert answer.code == 3, answer
        for name, scheme in (("box", "sftp"), ("dav", "webdav"), ("az", "az"), ("s3", "s3"), ("google", "gs")):
            assert f"{name}: {scheme}://" in said or f"{name} is absent, {scheme}://" in said, answer
        assert "no answer came within 0.7 s" in said
        asked = [each.connections() for each in (ssh, dav, azure, bucket, login)]
        # Three objects are asked for side by side where a destination gains from it, once each; all at Google wait for
        # one login.
        assert asked == [1, 1, 3, 3, 1]

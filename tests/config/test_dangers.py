"""Warnings about configs that are valid and risky."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.config.dangers import warnings
from opskit.config.load import parse

A, B, HOST, OTHER = "A" * 40, "B" * 40, "C" * 40, "D" * 40
PRUDENT = f"""\
version: 1
state_dir: /state
sources: {{data: {{paths: [/srv]}}}}
destinations: {{disk: {{path: /backup}}, far: {{path: /far, offsite: true}}}}
keys: {{recipients: [{A}, {B}], host: {HOST}, maintainers: [{OTHER}]}}
"""
RISKS = [
    (f"[{A}, {B}]", f"[{A}]", "keys.recipients: only one recipient"),
    (f"[{A}, {B}]", f"[{A}, {A.lower()}]", "keys.recipients: only one recipient"),
    (f"[{A}, {B}]", f"[{A}, {HOST}]", f"keys.recipients: {HOST} also signs or maintains"),
    (f"[{A}, {B}]", f"[{A}, {OTHER}]", f"keys.recipients: {OTHER} also signs or maintains"),
    (f", maintainers: [{OTHER}]", "", "keys.maintainers: the host's own key is a maintainer"),
    ("maintainers:", f"signers: [{OTHER}], maintainers:", "keys.signers: the host's own key is not a signer"),
    (", offsite: true", "", "policy.offsite demands 1 elsewhere; of the destinations, 0"),
    ("version: 1", "version: 1\npolicy: {copies: 4}", "policy.copies: 4 copies are demanded"),
    ("{data: {paths: [/srv]}}", "{}", "sources: nothing is backed up"),
    ("{path: /far,", "{s3: {bucket: far, storage_class: GLACIER},", "destinations.far.s3.storage_class: GLACIER"),
    ("{path: /far,", "{s3: {bucket: far, endpoint: http://x},", "destinations.far.s3.endpoint: requests travel unenc"),
    (
        "{path: /far,",
        "{webdav: {url: 'http://nas/x'},",
        "destinations.far.webdav.url: the password travels unencrypted",
    ),
    (
        "{path: /far,",
        "{azure: {account: abc, container: far, endpoint: 'http://nas:1/abc'},",
        "destinations.far.azure.endpoint: requests travel unencrypted",
    ),
    (
        "{path: /far,",
        "{gcs: {bucket: far, endpoint: 'http://nas:1'},",
        "destinations.far.gcs.endpoint: requests travel unencrypted",
    ),
    (
        "{path: /far,",
        "{s3: {bucket: far, object_lock_days: 9, lock_mode: GOVERNANCE},",
        "destinations.far.s3.lock_mode: GOVERNANCE",
    ),
    ("{paths: [/srv]}", "{postgresql: {host: db.example.org}}", "sources.data.postgresql.sslmode: without verify-full"),
    ("{paths: [/srv]}", "{postgresql: {host: 10.0.0.1, sslmode: require}}", "sources.data.postgresql.sslmode: without"),
    ("{paths: [/srv]}", "{mariadb: {host: db.example.org}}", "sources.data.mariadb.ssl_ca: without it somebody"),
    ("[/srv]", "['/srv/*']", "sources.data.paths: /srv/* is taken literally"),
    ("[/srv]", "['$HOME']", "sources.data.paths: /etc/$HOME is taken literally"),
    ("[/srv]", "[/far/data]", "sources.data.paths: /far/data lies inside destination 'far'"),
]


def test_a_prudent_config_has_no_warning() -> None:
    """Two recipients, a maintainer elsewhere and enough copies draw no warning."""
    assert warnings(parse(PRUDENT, "c.yaml", Path("/etc"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "{postgresql: {}}",
        "{postgresql: {host: /run/postgresql}}",
        "{postgresql: {host: localhost}}",
        "{postgresql: {host: db, sslmode: verify-full}}",
        "{mariadb: {socket: /run/s}}",
        "{mariadb: {host: db, ssl_ca: /etc/ca.pem}}",
        "{sqlite: [/a]}",
    ],
)
def test_a_database_that_is_near_or_checked_has_no_warning(source: str) -> None:
    """Only who talks to another machine without knowing which is warned."""
    assert warnings(parse(PRUDENT.replace("{paths: [/srv]}", source), "c.yaml", Path("/etc"))) == []


@pytest.mark.parametrize(("old", "new", "start"), RISKS, ids=[start for _, _, start in RISKS])
def test_each_risk_is_named_once(old: str, new: str, start: str) -> None:
    """One risk in a prudent config gives exactly one warning, which begins with its field."""
    assert old in PRUDENT
    (warning,) = warnings(parse(PRUDENT.replace(old, new), "c.yaml", Path("/etc")))
    assert warning.startswith(start)

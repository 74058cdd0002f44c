"""Bad configs and the exact lines that they get."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opskit.config.load import parse
from opskit.config.model import CommandSource, Config, PathsSource
from opskit.config.syntax import MAX_DEPTH, MAX_VALUES
from opskit.config.terms import Duration
from opskit.errors import ConfigError
from opskit.secrets.reference import BUILT_IN_SCHEMES

KEY_A, KEY_B = "A" * 40, "B" * 40
GOOD = f"""\
version: 1
state_dir: state
sources:
  data: {{paths: [/srv]}}
destinations:
  disk: {{path: /backup}}
keys: {{recipients: [{KEY_A}, {KEY_B}]}}
"""
SENTINEL = "hunter2-Xq9"


def config(text: str) -> Config:
    """`text` as the file c.yaml in /etc/x."""
    return parse(text, "c.yaml", Path("/etc/x"))


def complaints(text: str) -> list[str]:
    """The lines that refuse `text`."""
    with pytest.raises(ConfigError) as caught:
        config(text)
    return str(caught.value).split("\n")


def replaced(old: str, new: str) -> str:
    """GOOD with one piece replaced."""
    assert old in GOOD
    return GOOD.replace(old, new)


# A change to GOOD and the one line that it draws.
BAD = [
    ("version: 1", "version: 2", "1:10: version: unsupported value, expected 1, got the number 2"),
    ("version: 1", "version: true", "1:10: version: wrong type, expected a whole number, got true"),
    ("version: 1\n", "", "1:1: version: missing, expected version of this file's format, got nothing"),
    ("version: 1", "versoin: 1\nversion: 1", "1:1: versoin: unknown key; did you mean 'version'?"),
    ("version: 1", "version: 1\nversion: 1", "2:1: version: duplicate key, expected it once, got it on line 1 too"),
    ("state_dir: state", "state_dir: [x]", "2:12: state_dir: wrong type, expected a path as text, got a list"),
    ("state_dir: state", "state_dir:", "2:11: state_dir: wrong type, expected a path as text, got nothing"),
    (
        "state_dir: state",
        "state_dir: ~/x",
        "2:12: state_dir: '~' is not expanded, expected an absolute path, got '~/x'",
    ),
    ("state_dir: state", "state_dir: ''", "2:12: state_dir: not a path, expected a path, got ''"),
    ("state_dir: state", "simulated: no", "2:12: simulated: wrong type, expected true or false, got 'no'"),
    ("state_dir: state", "simulated: on", "2:12: simulated: wrong type, expected true or false, got 'on'"),
    ("state_dir: state", "host: Web.1", "2:7: host: malformed, expected 1 to 32 of a-z, 0-9, _ and -, got 'Web.1'"),
    ("state_dir: state", "host: 12", "2:7: host: wrong type, expected text, got the number 12; quote it"),
    (
        "state_dir: state",
        "policy: {max_age: 12:30}",
        "2:19: policy.max_age: not a duration, expected a duration such as 90m, 26h, 30d or 2w, got '12:30'",
    ),
    (
        "state_dir: state",
        "policy: {max_age: 26}",
        "2:19: policy.max_age: not a duration, expected a duration such as 90m, 26h, 30d or 2w, got the number 26",
    ),
    ("state_dir: state", "policy: {copies: 0}", "2:18: policy.copies: too small, expected 1 or more, got the number 0"),
    (
        "state_dir: state",
        "policy: {copies: 1e1}",
        "2:18: policy.copies: wrong type, expected a whole number, got the number 1e1",
    ),
    ("state_dir: state", "policy: 3", "2:9: policy: wrong type, expected a mapping, got the number 3"),
    ("state_dir: state", "policy: {<<: {copies: 2}}", "2:10: policy: merge key '<<', expected the keys themselves"),
    (
        "state_dir: state",
        "performance: {workers: 17}",
        "2:24: performance.workers: too large, expected 16 or less, got the number 17",
    ),
    (
        "state_dir: state",
        "retention: {keep_last: 0, keep_daily: 0, keep_weekly: 0, keep_monthly: 0, keep_yearly: 0}",
        "2:12: retention: keeps no snapshot at all, expected at least one keep_… above 0, got a mapping",
    ),
    (
        "{paths: [/srv]}",
        "{path: [/srv]}",
        "4:3: sources.data: unclear kind, expected exactly one of the keys paths, command, "
        "postgresql, mariadb, sqlite, got path; did you mean 'paths'?",
    ),
    (
        "{paths: [/srv]}",
        "{paths: [/srv], command: [x]}",
        "4:3: sources.data: unclear kind, expected exactly one of the keys paths, command, "
        "postgresql, mariadb, sqlite, got paths and command",
    ),
    (
        "{paths: [/srv]}",
        "[/srv]",
        "4:3: sources.data: unclear kind, expected exactly one of the keys paths, command, "
        "postgresql, mariadb, sqlite, got a list",
    ),
    ("{paths: [/srv]}", "{paths: /srv}", "4:17: sources.data.paths: wrong type, expected a list, got text"),
    (
        "{paths: [/srv]}",
        "{paths: []}",
        "4:17: sources.data.paths: empty, expected at least one entry, got an empty list",
    ),
    (
        "{paths: [/srv]}",
        "{paths: [/srv, 7]}",
        "4:24: sources.data.paths[1]: wrong type, expected a path as text, got the number 7",
    ),
    (
        "{paths: [/srv]}",
        '{paths: ["/a\\0b"]}',
        "4:18: sources.data.paths[0]: not a path, expected a path, got '/a\\x00b'",
    ),
    (
        "{paths: [/srv]}",
        "{paths: [/srv], exlude: []}",
        "4:25: sources.data.exlude: unknown key; did you mean 'exclude'?",
    ),
    (
        "{paths: [/srv]}",
        "{paths: [/srv], exclude: ['']}",
        "4:35: sources.data.exclude[0]: empty, expected text, got ''",
    ),
    (
        "{paths: [/srv]}",
        "{paths: [/srv], tags: [a b]}",
        "4:32: sources.data.tags[0]: malformed, expected 1 to 64 of letters, digits and _ . : = + -, got 'a b'",
    ),
    (
        "{paths: [/srv]}",
        "{paths: [/srv], verify: {each: [cat]}}",
        "4:40: sources.data.verify.each: the file is not passed on, expected an argument that holds {file}, got a list",
    ),
    (
        "{paths: [/srv]}",
        "{paths: [/srv], verify: {eech: [cat]}}",
        "4:34: sources.data.verify.eech: unknown key; did you mean 'each'?",
    ),
    (
        "{paths: [/srv]}",
        "{command: a | b, filename: x}",
        "4:19: sources.data.command: wrong type, expected a list, got text",
    ),
    (
        "{paths: [/srv]}",
        "{command: [], filename: x}",
        "4:19: sources.data.command: no program, expected a list whose first word is a program, got an empty list",
    ),
    (
        "{paths: [/srv]}",
        "{command: [a, 1], filename: x}",
        "4:23: sources.data.command[1]: wrong type, expected text, got the number 1; quote it",
    ),
    (
        "{paths: [/srv]}",
        "{command: [a]}",
        "4:3: sources.data.filename: missing, expected name that the output gets in the snapshot, got nothing",
    ),
    (
        "{paths: [/srv]}",
        "{command: [a], filename: ../x}",
        "4:34: sources.data.filename: malformed, expected a file name without '/', got '../x'",
    ),
    (
        "{paths: [/srv]}",
        "{postgresql: {password: hunter2}}",
        "4:33: sources.data.postgresql.password: inline secret; use env:/file:/cred:/gpg:/…",
    ),
    (
        "{paths: [/srv]}",
        "{mariadb: {user: backup, password: hunter2}}",
        "4:44: sources.data.mariadb.password: inline secret; use env:/file:/cred:/gpg:/…",
    ),
    (
        "{paths: [/srv]}",
        "{postgresql: {host: 'postgres://u:p@h'}}",
        "4:29: sources.data.postgresql.host: malformed, expected a host name, an address or the folder of a socket, "
        "got 'postgres://…@h'",
    ),
    (
        "{paths: [/srv]}",
        "{postgresql: {dbname: app}}",
        "4:23: sources.data.postgresql.dbname: unknown key, expected one of databases, host, port, user, password, "
        "run_as, sslmode, sslrootcert, globals, maintenance_database",
    ),
    (
        "{paths: [/srv]}",
        "{postgresql: {databases: app}}",
        "4:34: sources.data.postgresql.databases: wrong type, expected a list, got text",
    ),
    (
        "{paths: [/srv]}",
        "{postgresql: {port: 70000}}",
        "4:29: sources.data.postgresql.port: too large, expected 65535 or less, got the number 70000",
    ),
    (
        "{paths: [/srv]}",
        "{postgresql: {run_as: postgres, password: 'env:P'}}",
        "4:31: sources.data.postgresql.run_as: has no use beside a password, expected one of the two, got 'postgres'",
    ),
    (
        "{paths: [/srv]}",
        "{mariadb: {socket: /run/s, host: db}}",
        "4:28: sources.data.mariadb.socket: stands beside a host or port, expected one of the two, got '/run/s'",
    ),
    (
        "{paths: [/srv]}",
        "{mariadb: {client: mysql}}",
        "4:28: sources.data.mariadb.client: cannot write users and grants, expected globals: false beside it, "
        "got 'mysql'",
    ),
    (
        "{paths: [/srv]}",
        "{sqlite: []}",
        "4:18: sources.data.sqlite: empty, expected at least one entry, got an empty list",
    ),
    (
        "{paths: [/srv]}",
        "{sqlite: [/a, /b, /a]}",
        "4:27: sources.data.sqlite[2]: stands there twice, expected each file once, got '/a'",
    ),
    (
        "{paths: [/srv]}",
        "{command: [a], filename: ..}",
        "4:34: sources.data.filename: not a file name, expected a file name, got '..'",
    ),
    (
        "  data:",
        "  Data Base:",
        "4:3: sources.Data Base: not a name, expected 1 to 32 of a-z, 0-9, _ and -, got 'Data Base'",
    ),
    ("  data:", "  1:", "4:3: sources: wrong type of key, expected text, got 1; quote it"),
    ("  data:", "  ? [a]\n  :", "4:5: sources: wrong type of key, expected text, got a list or mapping"),
    ("  disk: {path: /backup}", "  {}", "6:3: destinations: empty, expected at least one entry, got an empty mapping"),
    (
        "{path: /backup}",
        "{}",
        "6:3: destinations.disk: unclear kind, expected exactly one of the keys path, s3, sftp, webdav, azure, "
        "gcs, got none",
    ),
    (
        "{path: /backup}",
        "{s3: {}}",
        "6:10: destinations.disk.s3.bucket: missing, expected name of the bucket, which must exist, got nothing",
    ),
    (
        "{path: /backup}",
        "{s3: {bucket: b}}",
        "6:23: destinations.disk.s3.bucket: malformed, expected the name of a bucket: "
        "3 to 255 of letters, digits, '.', '_' and '-', got 'b'",
    ),
    (
        "{path: /backup}",
        "{s3: {bucket: bucket, prefix: /a}}",
        "6:39: destinations.disk.s3.prefix: malformed, expected 1 to 5 parts of letters, digits, '.', '_' and '-', "
        "with '/' between them only, got '/a'",
    ),
    (
        "{path: /backup}",
        "{s3: {bucket: bucket, owner: 123456789012}}",
        "6:38: destinations.disk.s3.owner: wrong type, expected text, got the number 123456789012; quote it",
    ),
    (
        "{path: /backup}",
        "{s3: {bucket: bucket, sse: aes}}",
        "6:36: destinations.disk.s3.sse: unsupported value, expected 'AES256' or 'aws:kms', got 'aes'",
    ),
    (
        "{path: /backup}",
        "{s3: {bucket: bucket, kms_key: k}}",
        "6:40: destinations.disk.s3.kms_key: has no use, expected sse: aws:kms beside it, got 'k'",
    ),
    (
        "{path: /backup}",
        "{s3: {bucket: bucket, access_key_id: 'env:ID'}}",
        "6:46: destinations.disk.s3.access_key_id: stands alone, expected secret_access_key beside it, got 'env:ID'",
    ),
    (
        "{path: /backup}",
        "{s3: {bucket: bucket}}\n  twin: {s3: {bucket: bucket, prefix: a}}",
        "7:23: destinations.twin.s3.bucket: shares its place with destination 'disk', "
        "expected another bucket or prefix, got 'bucket'",
    ),
    (
        "{path: /backup}",
        "{path: /backup, offsite: 'true'}",
        "6:34: destinations.disk.offsite: wrong type, expected true or false, got 'true'",
    ),
    (
        "{path: /backup}",
        "{path: /srv/b}",
        "6:16: destinations.disk.path: lies inside source 'data', which would back itself up; "
        "expected a folder outside /srv, or '/b/' in sources.data.exclude, got '/srv/b'",
    ),
    (
        "{path: /backup}",
        "{path: /srv}",
        "6:16: destinations.disk.path: is also a path of source 'data', expected another folder, got '/srv'",
    ),
    (
        "state_dir: state",
        "state_dir: /srv/s",
        "2:12: state_dir: lies inside source 'data', which would back itself up; "
        "expected a folder outside /srv, or '/s/' in sources.data.exclude, got '/srv/s'",
    ),
    (
        "state_dir: state",
        "state_dir: /backup",
        "6:16: destinations.disk.path: is also state_dir, expected another folder, got '/backup'",
    ),
    (
        "{path: /backup}",
        "{path: /backup}\n  usb: {path: /backup/x/..}",
        "7:15: destinations.usb.path: shares its folder with destination 'disk', "
        "expected a folder outside /backup, got '/backup/x/..'",
    ),
    (
        "[/srv]",
        "[/srv, /srv/a]",
        "4:24: sources.data.paths[1]: already part of /srv, expected paths that do not overlap, got '/srv/a'",
    ),
    (
        "{path: /backup}",
        "{path: /backup/a}\n  usb: {path: /backup}",
        "7:15: destinations.usb.path: shares its folder with destination 'disk', "
        "expected a folder outside /backup/a, got '/backup'",
    ),
    (
        "[/srv]",
        "[/srv, /srv]",
        "4:24: sources.data.paths[1]: already part of /srv, expected paths that do not overlap, got '/srv'",
    ),
    (
        KEY_B,
        "ABCD",
        "7:63: keys.recipients[1]: malformed, expected a full fingerprint of 40 hexadecimal digits, got 'ABCD'",
    ),
    (KEY_B, "1" * 40, f"7:63: keys.recipients[1]: wrong type, expected text, got the number {'1' * 40}; quote it"),
    (
        f"recipients: [{KEY_A}, {KEY_B}]",
        "recipients: []",
        "7:20: keys.recipients: empty, expected at least one entry, got an empty list",
    ),
    (
        "{paths: [/srv]}",
        f"{{command: [a], filename: x, env: {{PW: {SENTINEL}}}}}",
        "4:47: sources.data.env.PW: inline secret; use env:/file:/cred:/gpg:/…",
    ),
    (
        "{paths: [/srv]}",
        f"{{command: [a], filename: x, env: {{PW: evn:{SENTINEL}}}}}",
        "4:47: sources.data.env.PW: inline secret; use env:/file:/cred:/gpg:/…; did you mean 'env'?",
    ),
    (
        "{paths: [/srv]}",
        "{command: [a], filename: x, env: {PW: 123}}",
        "4:47: sources.data.env.PW: inline secret; use env:/file:/cred:/gpg:/…",
    ),
    (
        "{paths: [/srv]}",
        "{command: [a], filename: x, env: {PW: fil:///x}}",
        "4:47: sources.data.env.PW: unknown scheme 'fil' in a secret reference: "
        f"expected one of {', '.join(sorted(BUILT_IN_SCHEMES))}; did you mean 'file'?",
    ),
    (
        "{paths: [/srv]}",
        f"{{command: [a], filename: x, env: {{PW: *{SENTINEL}}}}}",
        "4:47: undefined alias, expected a value; quote text that starts with '*'",
    ),
    (
        "{paths: [/srv]}",
        f"{{paths: [/srv], verify: !{SENTINEL} x}}",
        "4:33: sources.data.verify: unknown tag, expected none",
    ),
    (
        "{paths: [/srv]}",
        f"{{command: [a], filename: x, env: {{PW={SENTINEL}: x}}}}",
        "4:42: sources.data.env: a key is no name of a variable, "
        "expected names of letters, digits and _, not beginning with a digit, got a mapping",
    ),
    (
        "{paths: [/srv]}",
        f"{{command: [a], filename: x, env: {{PW={SENTINEL}}}}}",
        "4:42: sources.data.env: a key is no name of a variable, "
        "expected names of letters, digits and _, not beginning with a digit, got a mapping",
    ),
    (
        "{paths: [/srv]}",
        "{command: [a], filename: x, env: {1A: env:X}}",
        "4:42: sources.data.env: a key is no name of a variable, "
        "expected names of letters, digits and _, not beginning with a digit, got a mapping",
    ),
    (
        "{paths: [/srv]}",
        f"{{command: [a], filename: x, env: [PW={SENTINEL}]}}",
        "4:42: sources.data.env: wrong type, expected a mapping, got a list",
    ),
    (
        "{paths: [/srv]}",
        f"{{command: [a], filename: x, env: PW={SENTINEL}}}",
        "4:42: sources.data.env: wrong type, expected a mapping, got text",
    ),
    (
        f"{KEY_B}]",
        f"{KEY_B}], host: {SENTINEL[:3]}",
        "7:112: keys.host: malformed, expected a full fingerprint of 40 hexadecimal digits, got 'hun'",
    ),
]
UNREADABLE = [
    ("", "1:1: empty file, expected a mapping, got nothing"),
    ("# only a comment\n", "1:1: empty file, expected a mapping, got nothing"),
    ("- a\n", "1:1: not a config, expected a mapping, got a list"),
    ("just text", "1:1: not a config, expected a mapping, got text"),
    ("null", "1:1: not a config, expected a mapping, got nothing"),
    ("a:\n\tb: 1\n", "2:1: tab, expected blanks for indentation, got a tab"),
    ("a: b: c", "1:5: unexpected ':', expected one key a line; quote text that holds ': '"),
    ("a: 'x\n", "2:1: text not closed, expected an end quote"),
    ("a: [1\nb: 2", "2:2: list not closed, expected ',' or ']'"),
    ("a: {b: 1\nc: 2", "2:2: mapping not closed, expected ',' or '}'"),
    ("a: 1\n---\nb: 2\n", "2:1: a second document, expected one"),
    ("a: @x", "1:4: a value cannot start with this character, expected it in quotes"),
    ("a: 1\nb: \x07", "2:4: control character, expected printable text"),
    ("a: &x [*x]", "1:1: too large once aliases are expanded, expected at most 20000 values"),
    ("[" * 100_000, f"1:{MAX_DEPTH + 2}: nested too deeply, expected at most {MAX_DEPTH} levels"),
]


def test_the_good_config_is_good() -> None:
    """The text that the bad cases start from is accepted, with relative paths taken from the file's folder."""
    good = config(GOOD)
    assert good.state_dir == Path("/etc/x/state")
    source = good.sources["data"]
    assert isinstance(source, PathsSource) and source.exclude_if_present == (".nobackup",) and source.exclude_caches


@pytest.mark.parametrize(("old", "new", "line"), BAD, ids=[line[:60] for _, _, line in BAD])
def test_each_mistake_gets_its_exact_line(old: str, new: str, line: str) -> None:
    """One mistake in a good config gives exactly one line, at its place, and never repeats a secret."""
    found = complaints(replaced(old, new))
    assert found == [f"c.yaml:{line}"]
    assert SENTINEL not in "".join(found)


@pytest.mark.parametrize(("text", "line"), UNREADABLE, ids=[line[:50] for _, line in UNREADABLE])
def test_what_is_not_a_config_gets_its_exact_line(text: str, line: str) -> None:
    """Text that is no YAML mapping is refused with the place where reading failed."""
    assert complaints(text) == [f"c.yaml:{line}"]


def test_all_mistakes_show_at_once_in_order() -> None:
    """Problems of syntax and of meaning are reported together, sorted by position."""
    found = complaints(replaced("state_dir: state", "host: 1\nhost: 2\nhots: x") + "policy: {copies: x}\n")
    assert [re.match(r"c\.yaml:(\d+):(\d+): ([\w.]+): ", line).groups() for line in found] == [  # type: ignore[union-attr]
        ("2", "7", "host"),
        ("3", "1", "host"),
        ("4", "1", "hots"),
        ("10", "18", "policy.copies"),
    ]


def test_a_tag_before_a_secret_is_not_repeated() -> None:
    """A tag where a reference belongs is refused, as a tag and for what it leaves, without its text."""
    found = complaints(replaced("{paths: [/srv]}", f"{{command: [a], filename: x, env: {{PW: !{SENTINEL} x}}}}"))
    assert found[0] == "c.yaml:4:47: sources.data.env.PW: unknown tag, expected none"
    assert SENTINEL not in "".join(found)


def test_a_flood_of_mistakes_is_cut() -> None:
    """More problems than anybody reads are counted, not listed."""
    found = complaints(GOOD + "".join(f"key{i}: 1\n" for i in range(150)))
    assert len(found) == 101 and found[-1] == "c.yaml: and 50 more"


def test_alias_bombs_are_refused() -> None:
    """Aliases that expand exponentially stop at a bound instead of filling the memory."""
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
    assert complaints(bomb) == [
        f"c.yaml:1:1: too large once aliases are expanded, expected at most {MAX_VALUES} values"
    ]


def test_aliases_are_allowed() -> None:
    """An ordinary alias stands for what its anchor names."""
    text = replaced("{paths: [/srv]}", "{paths: [/srv], exclude: &x ['*.tmp']}\n  more: {paths: [/usr], exclude: *x}")
    source = config(text).sources["more"]
    assert isinstance(source, PathsSource) and source.exclude == ("*.tmp",)


@pytest.mark.parametrize(
    "word", ["no", "on", "off", "yes", "y", "12:30", "2026-11-21", "0o", "1_000", "0b1", "=", "1.2.3"]
)
def test_yaml_1_1_traps_stay_text(word: str) -> None:
    """Plain scalars that YAML 1.1 takes for booleans, times or numbers are text."""
    source = config(replaced("{paths: [/srv]}", f"{{command: [echo, {word}], filename: x}}")).sources["data"]
    assert isinstance(source, CommandSource) and source.command == ("echo", word)


@pytest.mark.parametrize(("text", "number"), [("010", 10), ("0x10", 16), ("0o10", 8), ("+3", 3)])
def test_numbers_follow_yaml_1_2(text: str, number: int) -> None:
    """Whole numbers mean what YAML 1.2 says: a leading zero is not octal."""
    assert config(GOOD + f"policy: {{copies: {text}}}\n").policy.copies == number


def test_host_key_is_signer_and_maintainer_by_default() -> None:
    """Signers and maintainers default to the host's own key; blanks and case of fingerprints do not matter."""
    keys = config(replaced(f"{KEY_B}]", f"{KEY_B}], host: {' '.join(['cccc'] * 10)}")).keys
    assert keys.host == "C" * 40 and keys.signers == keys.maintainers == ("C" * 40,)


@pytest.mark.parametrize("exclude", ["/b/", "/b", "b", "**/b", "/*", "b*", "/b/c"])
def test_an_excluded_destination_may_lie_in_a_source(exclude: str) -> None:
    """A destination below a source is accepted once a pattern excludes it or a folder around it."""
    text = replaced("[/srv]", f"[/srv], exclude: ['{exclude}']").replace("/backup", "/srv/b/c")
    assert config(text).sources


@pytest.mark.parametrize("exclude", ["c/b", "/c", "x", "/b/c/d"])
def test_a_destination_not_excluded_is_refused(exclude: str) -> None:
    """Patterns that do not match the destination do not excuse it."""
    text = replaced("[/srv]", f"[/srv], exclude: ['{exclude}']").replace("/backup", "/srv/b/c")
    assert "lies inside source 'data'" in complaints(text)[0]


def test_a_reincluded_destination_is_refused() -> None:
    """The last matching pattern counts, so a negation brings the danger back."""
    text = replaced("[/srv]", "[/srv], exclude: [b, '!/b']").replace("/backup", "/srv/b")
    assert "lies inside source 'data'" in complaints(text)[0]


def test_a_mounted_medium_is_another_file_system() -> None:
    """A source that stays on its file system never enters a destination that must be mounted."""
    text = replaced("[/srv]", "[/], one_file_system: true, exclude: [/etc/]")
    assert config(text.replace("{path: /backup}", "{path: /backup, must_be_mounted: true}"))
    assert "lies inside" in complaints(text)[0]


@pytest.mark.parametrize("text", ["26h", "90m", "30d", "2w", "48h", "14d"])
def test_durations_show_as_written(text: str) -> None:
    """A duration keeps the unit it was written in."""
    assert str(Duration.parse(text)) == text


def test_durations_measure_time() -> None:
    """Different ways to write one length are equal."""
    assert Duration.parse("2w") == Duration.parse("14d") == Duration.parse("336h")


POSITION = re.compile(r"c\.yaml:\d+:\d+: ", re.DOTALL)


@given(st.text(alphabet=st.sampled_from("aA0:-{}[]*&!|>'\"#%@`, \n\t?<~.\x00é")))
@example("%YAML 9.9\n---\na: 1")
@example("? ? ?")
@example("a: !!int x")
@example("a: !!float .x")
@example("a: " + "9" * 5000)
def test_any_text_gets_a_position_or_is_read(text: str) -> None:
    """Whatever the file holds, the answer is a ConfigError whose every line has file:line:col."""
    for line in complaints(text):
        assert POSITION.match(line), line


@given(st.data())
def test_damaged_configs_get_a_position(data: st.DataObject) -> None:
    """A good config with a piece replaced is accepted, or refused with file:line:col on every line."""
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 30)))
    text = (
        GOOD[:start]
        + data.draw(st.sampled_from(["", "x", ": ", "[", "{}", "null", "- ", "\n", "&a", "1"]))
        + GOOD[end:]
    )
    try:
        config(text)
    except ConfigError as error:
        assert all(POSITION.match(line) for line in str(error).split("\n"))


def test_a_path_that_is_no_text_is_refused() -> None:
    """A lone surrogate, which stands for a byte that is not UTF-8, cannot be stored in a snapshot: the line says so."""
    text = EXAMPLE_OF_SURROGATE
    with pytest.raises(ConfigError, match="not a path"):
        parse(text, "f", Path("/"))


EXAMPLE_OF_SURROGATE = (
    'version: 1\nsources: {x: {paths: ["/d/\\udcff"]}}\ndestinations: {a: {path: /b}}\n'
    f'keys: {{recipients: ["{"A" * 40}"]}}\n'
)

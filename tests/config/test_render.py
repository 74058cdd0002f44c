"""Configs written as YAML: whole, by addition, and as the example."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.config.dangers import warnings
from opskit.config.entry import Entry
from opskit.config.load import load, parse
from opskit.config.model import (
    CommandSource,
    Config,
    Destination,
    Keys,
    LocalDestination,
    MariadbServer,
    MariadbSource,
    PathsSource,
    Performance,
    Policy,
    PostgresqlServer,
    PostgresqlSource,
    Retention,
    S3Bucket,
    S3Destination,
    Source,
    SqliteSource,
    Verify,
)
from opskit.config.render import add_entries, example, render, values
from opskit.config.schema import json_schema
from opskit.config.terms import Duration
from opskit.errors import ConfigError
from opskit.secrets.reference import Reference

PROJECT = Path(__file__).resolve().parents[2]

labels = st.from_regex(r"[a-z0-9_-]{1,32}", fullmatch=True)
words = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=12)
words |= st.sampled_from(
    ["no", "on", "null", "~", "12:30", "010", "1e3", "- x", "a: b", "#x", "{file}", "*.tmp", " x "]
)
names = words.filter(lambda text: "/" not in text and text not in {".", ".."})
parts = names.filter(lambda text: not set(text) <= {"."}) | st.just("café")
durations = st.builds(lambda n, unit: Duration.parse(f"{n}{unit}"), st.integers(1, 999_999), st.sampled_from("smhdw"))
fingerprints = st.from_regex(r"[0-9A-F]{40}", fullmatch=True)
argv = st.lists(words, min_size=1, max_size=4).map(tuple)
verifications = st.builds(Verify, each=st.none() | argv.map(lambda a: (*a, "{file}")), all=st.none() | argv)
references = st.builds(Reference, st.sampled_from(["env", "file", "cred"]), words)
variables = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True) | st.sampled_from(["NO", "NULL", "True", "y"])
tags = st.lists(st.from_regex(r"[A-Za-z0-9_.:=+-]{1,64}", fullmatch=True), max_size=2).map(tuple)


def _tuples(items: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(items, max_size=3).map(tuple)


def _below(root: str) -> st.SearchStrategy[Path]:
    return st.lists(parts, min_size=1, max_size=3).map(lambda names: Path(root, *names))


# Each kind of path below a root of its own: overlaps are another test's subject.
sources: st.SearchStrategy[Source] = st.builds(
    PathsSource,
    paths=_below("/source").map(lambda path: (path,)),
    exclude=_tuples(words),
    exclude_if_present=_tuples(names),
    exclude_caches=st.booleans(),
    one_file_system=st.booleans(),
    verify=st.none() | verifications,
    tags=tags,
) | st.builds(
    CommandSource,
    command=argv,
    filename=names,
    env=st.dictionaries(variables, references, max_size=3),
    verify=st.none() | verifications,
    tags=tags,
)
databases = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9), max_size=2)
sources |= (
    st.builds(
        PostgresqlSource,
        postgresql=st.builds(
            PostgresqlServer,
            databases=databases.map(tuple),
            host=st.sampled_from([None, "localhost", "::1", "/run/postgresql"]),
            port=st.none() | st.integers(1, 65535),
            user=st.sampled_from([None, "no", "a b", "1"]),
            password=st.none() | references,
            sslmode=st.sampled_from([None, "disable", "verify-full"]),
            sslrootcert=st.none() | _below("/etc"),
            globals=st.sampled_from(["full", "without-passwords", "none"]),
        ),
        tags=tags,
    )
    | st.builds(
        MariadbSource,
        mariadb=st.builds(
            MariadbServer,
            databases=databases.map(tuple),
            socket=st.none() | _below("/run"),
            password=st.none() | references,
            extended_insert=st.booleans(),
        ),
    )
    | st.builds(SqliteSource, sqlite=_below("/data").map(lambda path: (path,)))
)
buckets = st.builds(
    lambda bucket, pair: bucket.but(access_key_id=pair and pair[0], secret_access_key=pair and pair[1]),
    st.builds(
        S3Bucket,
        bucket=st.from_regex(r"\A[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]\Z"),
        prefix=st.none() | st.from_regex(r"\A[a-z0-9_-]{1,5}(/[a-z0-9_-]{1,5}){0,4}\Z"),
        endpoint=st.none() | st.just("https://[::1]:9000/s3"),
        owner=st.none() | st.from_regex(r"\A[0-9]{12}\Z"),
        storage_class=st.none() | st.just("STANDARD_IA"),
        sse=st.sampled_from([None, "AES256", "aws:kms"]),
        object_lock_days=st.none() | st.integers(1, 36_500),
        lock_mode=st.sampled_from(["COMPLIANCE", "GOVERNANCE"]),
    ),
    st.none() | st.tuples(references, references),
)
limits = st.none() | st.integers(1, 1_000_000_000)
destinations: st.SearchStrategy[Destination] = st.builds(
    LocalDestination, path=_below("/dest"), medium=labels, offsite=st.booleans(), must_be_mounted=st.booleans()
) | st.builds(
    S3Destination, s3=buckets, medium=labels, offsite=st.booleans(), upload_limit=limits, download_limit=limits
)
counts = st.integers(0, 100_000)
configs = st.builds(
    Config,
    version=st.just(1),
    host=labels,
    state_dir=_below("/state"),
    environment=st.sampled_from(["development", "staging", "production"]),
    simulated=st.booleans(),
    sources=st.dictionaries(labels, sources, max_size=3),
    destinations=st.dictionaries(labels, destinations, min_size=1, max_size=1),
    policy=st.builds(
        Policy, copies=st.integers(1, 100), max_age=durations, verify_every=durations, drill_every=durations
    ),
    retention=st.builds(Retention, keep_last=st.integers(1, 9), keep_daily=counts, keep_yearly=counts),
    keys=st.builds(
        Keys,
        recipients=st.lists(fingerprints, min_size=1, max_size=3).map(tuple),
        signers=st.lists(fingerprints, max_size=2).map(tuple),
        host=st.none() | fingerprints,
    ),
    performance=st.builds(Performance, background=st.booleans(), workers=st.integers(1, 16)),
)


def read(text: str) -> Config:
    """A config from text that lies nowhere."""
    return parse(text, "c.yaml", Path("/etc/opskit"))


@given(configs)
def test_what_is_rendered_reads_back_equal(config: Config) -> None:
    """render and parse are inverse, whatever text the fields hold."""
    assert read(render(config)) == config


@given(configs)
def test_rendering_is_stable(config: Config) -> None:
    """A config that was read back renders to the same text."""
    text = render(config)
    assert render(read(text)) == text


@given(configs, configs)
def test_entries_added_to_rendered_text_are_there(old: Config, new: Config) -> None:
    """Adding the entries of one config to the text of another gives both, and keeps every old line."""
    added_sources = {
        f"{name[:30]}-x": entry for name, entry in new.sources.items() if f"{name[:30]}-x" not in old.sources
    }
    place = LocalDestination(path=Path("/elsewhere"))
    name = "n" if "n" not in old.destinations else "m"
    text = render(old)
    edited = add_entries(text, added_sources, {name: place})
    result = read(edited)
    assert result.sources == old.sources | added_sources
    assert result.destinations == {**old.destinations, name: place}
    assert set(text.splitlines()) - {"sources: {}"} <= set(edited.splitlines())


HEAD, KEYS = "version: 1\n", f"keys: {{recipients: [{'A' * 40}]}}\n"
DATA = PathsSource(paths=(Path("/new"),))
USB = LocalDestination(path=Path("/mnt/usb"), medium="usb", must_be_mounted=True)
LAYOUTS = [
    "sources:\n  a: {paths: [/a]}  # mine\n\n  # about b\n  b:\n    paths:\n      - /b   # b itself\n\n"
    "# next\ndestinations: {d: {path: /d}}\n",
    "sources: {a: {paths: [/a]}}\ndestinations: {d: {path: /d},}\n",
    "sources: {}\ndestinations:\n    d:\n        path: /d\n",
    "sources: {  # none yet\n}\ndestinations:\n  d:\n    path: '/d'  # end",
    "sources:\r\n  a: {paths: [/a]}\r\ndestinations:\r\n  d: {path: /d}\r\n",
    "sources:\n  a:\n    paths: [/a]\n    exclude:\n    - x\ndestinations: {\n  d: {path: /d} # c\n}\n",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_entries_fit_into_any_layout(layout: str) -> None:
    """Block, flow, empty, commented and CRLF sections take new entries; every comment and old entry stays."""
    for text in (HEAD + KEYS + layout, HEAD + layout.rstrip("\r\n") + "\n" + KEYS):
        before = read(text)
        edited = add_entries(text, {"new": DATA}, {"usb": USB})
        after = read(edited)
        assert after.sources == {**before.sources, "new": DATA}
        assert after.destinations == {**before.destinations, "usb": USB}
        assert re.findall("#.*", edited) == re.findall("#.*", text)
        assert ("\r\n" in text) == ("\r\n" in edited)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + KEYS + "sources:",
        HEAD + "sources: # none\n" + KEYS,
        HEAD + KEYS + "sources: {}",
        "{version: 1, sources: {}, " + KEYS.strip() + "}",
        "{version: 1, " + KEYS.strip() + "}\n",
    ],
)
def test_missing_sections_are_added(text: str) -> None:
    """An absent or empty section is added, in block style or inside a config that is one flow mapping."""
    config = read(add_entries(text, {"new": DATA}, {"usb": USB}))
    assert config.sources == {"new": DATA} and config.destinations == {"usb": USB}


def test_existing_names_are_refused() -> None:
    """An entry is never replaced."""
    text = HEAD + KEYS + LAYOUTS[0]
    with pytest.raises(ConfigError, match=r"sources\.a exists"):
        add_entries(text, {"a": DATA}, {})


@pytest.mark.parametrize(
    "text",
    [
        "x: &x {a: {paths: [/a]}}\nsources: *x\n",  # the entry would go into x too
        "sources:\n  a:\n    paths: &p [/a]\n    tags: [x]\n  c:\n    paths: *p\n",  # an alias ends elsewhere
        "x: 1\n...\n",  # text cannot be added behind the end
    ],
)
def test_layouts_that_cannot_be_edited_are_refused(text: str) -> None:
    """Where an edit would say something else, the error shows the entry to add by hand."""
    with pytest.raises(ConfigError, match="cannot be edited safely") as caught:
        add_entries(text, {"new": DATA}, {})
    assert caught.value.hint == "add by hand below sources: new: {paths: [/new]}"


def test_the_example_in_the_repository_is_the_packaged_one() -> None:
    """config.example.yaml and what `config generate` writes are the same text."""
    assert (PROJECT / "config.example.yaml").read_text("utf-8") == example()


def test_the_example_loads_without_a_warning() -> None:
    """The example is a valid, prudent config."""
    assert warnings(load(PROJECT / "config.example.yaml")) == []


def _all_entries(base: type[Entry] = Entry) -> list[type[Entry]]:
    return [entry for child in base.__subclasses__() for entry in (child, *_all_entries(child))]


def test_the_example_explains_every_key() -> None:
    """Every key of every entry stands in the example, somewhere right below a comment; a risky one as a comment too."""
    lines = example().splitlines()
    pairs = [(above, line) for above, line in pairwise(lines) if above.strip().startswith("#")]
    explained = {line.strip().removeprefix("# ").split(":")[0] for _, line in pairs}
    keys = {name for entry in _all_entries() for name in entry.known_keys()}
    assert keys - explained == set()


def test_the_schema_is_json_and_describes_every_key() -> None:
    """The JSON Schema serialises, and every property has a description."""
    definitions = json.loads(json.dumps(json_schema()))
    for part in (definitions, *definitions["$defs"].values()):
        for name, field in part["properties"].items():
            assert "description" in field, name


def test_rendered_configs_show_references_only() -> None:
    """A rendered config and the JSON of a config hold the reference of a secret."""
    config = load(PROJECT / "config.example.yaml")
    assert '{REDISCLI_AUTH: "file:///etc/opskit/redis-password"}' in render(config)
    shown = values(config)["sources"]
    assert shown["queue"]["env"] == {"REDISCLI_AUTH": "file:///etc/opskit/redis-password"}
    assert shown["app-db"]["postgresql"]["password"] == "file:///etc/opskit/app-db-password"

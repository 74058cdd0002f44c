"""Excludes: what git would ignore, in a walk that prunes; and the other ways of leaving things out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import ConfigError
from opskit.sources.files import FileSource
from opskit.sources.files.excludes import Excludes
from tests.sources.walking import make, names, needs_program, walk

TREE = (
    "a.tmp a.txt b a-b ab foo/foo foo/bar foo/a.tmp foo/sub/bar foo/sub/foo.txt build/x.o build/keep/y.o src/build/z.o "
    "docs/draft docs/x/draft docs/x/y/draft1 docs/x/note.md cache/data/1 src/cache src/a/c src/a/b/c src/b/a/b/b/c "
    "keep.tmp foo/keep.tmp #name !bang *star [ab]x ax bx cx ä.txt é/ü empty/ foo/empty/ a/b/x a/x/b/y dir/.hidden "
    ".git2/x name.tmp.bak x/f1 x/f2 x/f10 foo.d/x end. back\\slash"
).split()

TABLE = [
    ["**/*/**"],
    ["*.tmp"], ["*.tmp", "!keep.tmp"], ["!keep.tmp", "*.tmp"], ["foo"], ["foo/"], ["/foo"], ["/foo/"], ["foo/bar"],
    ["/foo/bar"], ["sub/"], ["foo/*"], ["foo/**"], ["foo/**", "!foo/bar"], ["foo/*", "!foo/bar"], ["foo", "!foo/bar"],
    ["**/foo"], ["**/build/"], ["**/x/draft"], ["docs/**/draft"], ["docs/**/draft?"], ["a/**/b"], ["**"], ["*"],
    ["*", "!*/"], ["*", "!*/", "!*.txt"], ["/*", "!/foo"], ["/*", "!/foo", "/foo/*", "!/foo/bar"], ["*.o", "!build"],
    ["*.o", "!build/"], ["*.o", "!build/**"], ["build", "!src/build"], ["\\#name"], ["#name"], ["\\!bang"],
    ["!bang"], ["\\*star"], ["\\[ab\\]x"], ["[ab]x"], ["[!a]x"], ["[a-b]x"], ["[^b]x"], ["a[!x]b"], ["a?b"], ["a*b"],
    ["x/f?"], ["x/f[0-9]"], ["x/f*"], ["foo.d"], ["end."], ["ä.txt"], ["é/"], ["", "  ", "a.txt "], ["a.txt\\ "],
    [".*"], ["*.*"], ["*", "!foo/", "!foo/bar"], ["cache"], ["cache/"], ["empty/"], ["*/"], ["!*/", "*"], ["a/**/"],
    ["src/**/c"], ["src/*/c"], ["src/a[!x]c"],
    ["/**/c"], ["**/a/**"], ["**/a/**/c"], ["foo/", "!foo/"], ["back\\\\slash"],
    ["*p", "!a*"], ["/"],
]  # fmt: skip


def kept_by_git(root: Path, lines: list[str]) -> list[str]:
    """Every path that git does not ignore, by asking git about each; also none below an ignored folder."""
    (root / ".git" / "info").mkdir(parents=True, exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    git = ["git", "-C", str(root), "-c", "core.quotePath=false", "-c", "safe.directory=*"]
    if not (root / ".git" / "HEAD").exists():
        subprocess.run([*git, "init", "-q"], check=True, env=environment)
    (root / ".git" / "info" / "exclude").write_text("".join(f"{line}\n" for line in lines))
    everything = [path for path in names(root) if path.partition("/")[0] != ".git"]
    answer = subprocess.run(
        [*git, "check-ignore", "--no-index", "-z", "--stdin"],
        input="\0".join(everything).encode(), capture_output=True, check=False, env=environment,
    )  # fmt: skip
    assert answer.returncode in (0, 1), answer.stderr
    ignored = set(answer.stdout.decode().split("\0"))
    return [path for path in everything if path not in ignored]


@needs_program("git")
@pytest.mark.parametrize("lines", TABLE, ids=lambda lines: " ".join(lines) or "nothing")
def test_the_walk_keeps_what_git_keeps(tmp_path: Path, lines: list[str]) -> None:
    """For every pattern list of the table the walk leaves out exactly what `git check-ignore` names."""
    root = make(tmp_path / "tree", *TREE)
    kept = kept_by_git(root, lines)
    assert names(root, exclude=[*lines, "/.git/"]) == kept


PARTS = st.sampled_from(["a", "b", "ab", "a.b", "*", "a*", "*b", "?", "**", "[ab]", "[!a]", "*.b"])
LINES = st.builds(
    lambda sign, front, parts, end: sign + front + "/".join(parts) + end,
    st.sampled_from(["", "", "!"]), st.sampled_from(["", "", "/"]), st.lists(PARTS, min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def small_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every path of up to three parts over few names."""
    root = tmp_path_factory.mktemp("small")
    parts = ["a", "b", "ab", "a.b"]
    make(root, *[f"{x}/{y}/{z}" for x in parts for y in parts for z in parts])
    return make(root, *[f"{x}/{y}/" for x in ("a", "ab") for y in ("c", "bb")], "c", "bb", "a/d.b")


@needs_program("git")
@given(lines=st.lists(LINES, min_size=1, max_size=4))
def test_random_patterns_mean_what_git_means(small_tree: Path, lines: list[str]) -> None:
    """Random pattern lists with negations, anchors and stars leave out what git leaves out."""
    kept = kept_by_git(small_tree, lines)
    assert names(small_tree, exclude=[*lines, "/.git/"]) == kept


def test_newlines_and_broken_names_match(tmp_path: Path) -> None:
    """Names with newlines or bytes that are no UTF-8 are matched whole, not up to the newline."""
    root = tmp_path / "tree"
    (root / "one\ntwo/x").mkdir(parents=True)
    for name in (b"x.tmp\n", b"x\n.tmp", b"\xff\xfe.tmp", b"one\ntwo/foo", b"one\ntwo/x/bar"):
        (root / os.fsdecode(name)).write_bytes(b"")
    rest = ["one\ntwo/x", "one\ntwo/x/bar"]
    assert names(root, exclude=["*.tmp"]) == ["one\ntwo", "one\ntwo/foo", *rest, "x.tmp\n"]
    assert names(root, exclude=["?ne*/foo", "x?.tmp", "**/x/bar"]) == [
        "one\ntwo",
        rest[0],
        "x.tmp\n",
        os.fsdecode(b"\xff\xfe.tmp"),
    ]


def test_patterns_are_anchored_at_each_source_path(tmp_path: Path) -> None:
    """A leading slash means each source path, not the root of the system."""
    make(tmp_path, "one/log/a", "one/x/log/a", "two/log/a")
    entries, _ = walk(FileSource([tmp_path / "one", tmp_path / "two"], exclude=["/log"]))
    top = len(os.fsencode(tmp_path))
    assert [entry.path[top:] for entry in entries] == [b"one", b"one/x", b"one/x/log", b"one/x/log/a", b"two"]


@pytest.mark.parametrize("line", ["[[:alpha:]]x", "!"])
def test_an_unusable_pattern_is_refused(line: str) -> None:
    """A line that cannot mean what was meant is a ConfigError which shows it."""
    with pytest.raises(ConfigError, match="pattern"):
        Excludes([line])


def test_a_marker_leaves_out_the_rest_of_its_folder(tmp_path: Path) -> None:
    """A folder with .nobackup is recorded with that file alone, its neighbours in full."""
    make(tmp_path, "x/.nobackup", "x/a", "x/sub/b", "y/a")
    assert names(tmp_path) == ["x", "x/.nobackup", "y", "y/a"]
    assert names(tmp_path, exclude_if_present=()) == ["x", "x/.nobackup", "x/a", "x/sub", "x/sub/b", "y", "y/a"]
    assert names(tmp_path, exclude_if_present=["a"]) == ["x", "x/a", "y", "y/a"]


def test_a_marker_at_the_source_path_is_loud(tmp_path: Path) -> None:
    """A source path that is left out whole says so."""
    entries, problems = walk(FileSource([make(tmp_path, ".nobackup", "a")]))
    assert [entry.path.rpartition(b"/")[2] for entry in entries[1:]] == [b".nobackup"]
    assert [problem.kind for problem in problems] == ["skipped"]


def test_only_a_genuine_cache_tag_counts(tmp_path: Path) -> None:
    """CACHEDIR.TAG works with its signature only, and only as a regular file."""
    signature = "Signature: 8a477f597d28d172789f06886806bc55"
    make(tmp_path, "bad/a", "good/a", "link/a", "off/CACHEDIR.TAG/", "off/a", "pipe/a")
    (tmp_path / "good/CACHEDIR.TAG").write_text(f"{signature}\n# made by a test\n")
    (tmp_path / "bad/CACHEDIR.TAG").write_text(signature[:-1] + "6")
    (tmp_path / "link/CACHEDIR.TAG").symlink_to("../good/CACHEDIR.TAG")
    os.mkfifo(tmp_path / "pipe/CACHEDIR.TAG")
    pipe = os.open(tmp_path / "pipe/CACHEDIR.TAG", os.O_RDWR)
    os.write(pipe, signature.encode())
    kept = names(tmp_path)
    os.close(pipe)
    assert [path for path in kept if path.endswith("/a")] == ["bad/a", "link/a", "off/a", "pipe/a"]
    assert "good/CACHEDIR.TAG" in kept
    assert "good/a" in names(tmp_path, exclude_caches=False)

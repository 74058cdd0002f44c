"""The architecture as one table, enforced: who may import whom, and how large a piece may grow.

`ROOMS` says for each room (a folder or module directly under opskit, or a part of one that has stricter rules) what it
may import and why not more; `OWNERS` gives each third-party package its one owner. A new room or dependency without a
row fails. Imports inside functions and under TYPE_CHECKING count for both; only cycles leave TYPE_CHECKING out, as
nothing is imported there at run time. The checker reads source text and imports nothing of opskit.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
MAX_MODULE_LINES = 400
MAX_RECOVER_LINES = 820  # recover.py stands alone in one file, so it cannot be divided
MAX_FUNCTION_LINES = 60
MAX_PROTOCOL_METHODS = 4


@dataclass(frozen=True)
class Room:
    """One row: what a room may import beside itself, and the reason that a failure shows."""

    name: str
    may: tuple[str, ...]
    because: str
    isolated: bool = False
    """Whether the modules of the room (adapters) may not import one another."""
    never: tuple[str, ...] = ()
    """Exceptions to `may`."""


CONCRETE = ("stores", "sources", "secrets.stores", "secrets.rotation.targets")
EVERYTHING = ("*",)

# The most specific row that fits a module counts.
ROOMS = (
    Room("__main__", ("cli",), "`python -m opskit` is the command line and nothing else"),
    Room("errors", (), "every other room raises these, so they stand on nothing"),
    Room("log", ("errors",), "logging set-up is used everywhere and knows nobody"),
    Room("encoding", ("errors",), "one form for what is hashed and signed, the same wherever it is"),
    Room(
        "audit",
        ("errors", "encoding"),
        "the log must be judged and written whatever else is broken; wiring passes the rest in",
    ),
    Room("hooks", ("errors", "log"), "commands around a run know nothing of backups; wiring brings them together"),
    Room("gpg", ("errors",), "the one owner of gpg is a tool of the format, and does not know the format"),
    Room(
        "config",
        ("errors", "secrets.placeholders", "secrets.reference"),
        "the schema describes; wiring makes objects of it",
    ),
    Room(
        "servers",
        ("errors", "config", "secrets.reference"),
        "what is typed for a server becomes what the config says of it, no more",
    ),
    Room(
        "locations",
        ("errors", "config", "servers"),
        "what is typed for a place becomes what the config says of it, no more",
    ),
    Room("secrets", ("errors",), "secret references resolve without config: wiring passes in what they need"),
    Room(
        "secrets.stores",
        ("errors", "secrets.base", "secrets.private", "secrets.reference", "secrets.words"),
        "an adapter knows its own seam only, so a new kind costs one module",
        isolated=True,
    ),
    Room(
        "secrets.rotation",
        ("errors", "secrets.base", "secrets.placeholders", "secrets.reference", "secrets.setting"),
        "the machine knows seams: stores, targets, consumers; wiring hands it those of the config",
        never=("secrets.rotation.targets",),
    ),
    Room(
        "secrets.rotation.targets",
        ("errors", "secrets.reference", "secrets.rotation.base", "secrets.rotation.commands"),
        "an adapter knows its own seam only, so a new kind costs one module",
        isolated=True,
    ),
    Room("stores", ("errors", "stores.base"), "an adapter knows its own seam only", isolated=True),
    Room(
        "sources",
        ("errors", "sources.base", "sources.loading", "sources.output"),
        "an adapter knows its own seam only, and how the output of programs is streamed",
        isolated=True,
    ),
    Room("sources.base", ("errors",), "the seam stands on nothing that is behind it"),
    Room("sources.loading", (), "the seam of what loads dumps in drills stands on nothing that is behind it"),
    Room("sources.output", ("errors", "sources.base"), "streaming serves the adapters and knows none"),
    Room(
        "repository",
        ("errors", "encoding", "gpg", "stores.base"),
        "the format is pure: no clock, network, config or particular medium",
    ),
    Room("repository.recovery", ("errors",), "the kit knows nothing of how repositories are written"),
    Room("repository.recovery.recover", (), "recover.py must run where opskit is gone"),
    Room(
        "operations",
        ("errors", "encoding", "log", "gpg", "repository", "stores.base", "sources.base", "sources.loading"),
        "operations see bases, never a concrete adapter; wiring hands them objects",
    ),
    Room(
        "paper",
        ("errors", "gpg", "repository.recovery"),
        "a key file on paper and back knows the file and gpg, and no repository",
    ),
    Room(
        "fuse",
        ("errors", "operations.mounting", "sources.base"),
        "the owner of libfuse shows a view, and knows neither config nor repository",
    ),
    Room("wiring", EVERYTHING, "the composition root builds, and the command line sits on top of it", never=("cli",)),
    Room(
        "databases",
        ("errors", "config", "log", "secrets.reference", "sources"),
        "the part of wiring that only hosts with databases load; wiring hands it the rest",
    ),
    Room(
        "buckets",
        ("errors", "config", "log", "remotes", "repository.names", "secrets.reference", "stores"),
        "the part of wiring that only hosts with a bucket load; wiring hands it the rest",
    ),
    Room(
        "secretstores",
        ("errors", "config.model", "gpg", "repository.deleted_keys", "repository.durable", "secrets"),
        "the part of wiring that knows secrets; wiring and its other parts ask it",
    ),
    Room(
        "rotations",
        (
            "errors",
            "config.model",
            "config.rotating",
            "log",
            "repository.durable",
            "rotationtargets",
            "secrets",
            "secretstores",
        ),
        "the part of wiring that only those who rotate secrets load",
    ),
    Room(
        "rotationtargets",
        ("errors", "config.rotating", "secrets", "setup.backup_key"),
        "the part of wiring that knows what accepts secrets; the rest of rotation sees the seam",
    ),
    Room(
        "remotes",
        ("errors", "config", "log", "secrets.reference", "stores"),
        "the part of wiring that only hosts with a destination elsewhere load; wiring hands it the rest",
    ),
    Room(
        "endpoints",
        ("errors", "encoding", "config", "repository.durable"),
        "a note of what was found out; who asks, and what follows, is wiring's",
    ),
    Room("access", EVERYTHING, "ways into a repository: over wiring, under the command line", never=("cli", *CONCRETE)),
    Room("setup", EVERYTHING, "what init does: over wiring, under the command line", never=("cli", *CONCRETE)),
    Room("cli", EVERYTHING, "adapters are made in wiring alone", never=CONCRETE),
)
# What stays open to a room that may not use concrete adapters: their seams.
SEAMS = ("stores.base", "sources.base", "sources.loading", "secrets.base", "secrets.rotation.base")

# Third-party package → the rooms or modules that own it. Anything else goes through the owner.
OWNERS = {
    "asyncssh": ("stores.sftp",),
    "webdav4": ("stores.url",),
    "azure": ("stores.url",),
    "google": ("stores.url.gcs",),
    "cryptography": ("secrets.rotation.targets.ssh", "secrets.rotation.targets.tls"),
    "dotenv": ("secrets.stores.dotenv",),
    "boto3": ("stores.s3", "secrets.stores.aws", "secrets.rotation.targets.iam"),
    "gnupg": ("gpg",),
    "keyring": ("secrets.stores.keyrings",),
    "hvac": ("secrets.stores.vault",),
    "mfusepy": ("fuse",),
    "orjson": ("encoding",),
    "pathspec": ("sources.files", "operations.selecting"),
    "pillow": ("paper.codes",),
    "psutil": ("cli",),
    "psycopg": ("secrets.rotation.targets.postgresql",),
    "pydantic": ("config",),
    "pymysql": ("secrets.rotation.targets.mysql",),
    "pyfastcdc": ("repository.chunker",),
    "redis": ("secrets.rotation.targets.redis_acl",),
    "rich": ("cli",),
    "segno": ("paper.codes",),
    "structlog": ("log",),
    "typer": ("cli",),
    "urllib3": ("stores.s3", "stores.url.gcs"),
    "yaml": ("config",),
    "zstandard": ("repository.pack",),
    "zxingcpp": ("paper.codes",),
}
COMPANIONS = {
    "PIL": "pillow",
    "pydantic_core": "pydantic",
    "botocore": "boto3",
    "types_boto3_s3": "boto3",
    "httpx": "webdav4",
    "requests": "hvac",
}  # installed by a dependency and part of its interface
# Where the import has another name.
DISTRIBUTIONS = {
    "azure-identity": "azure",
    "azure-storage-blob": "azure",
    "google-auth": "google",
    "python-dotenv": "dotenv",
    "python-gnupg": "gnupg",
    "pyyaml": "yaml",
    "zxing-cpp": "zxingcpp",
}

# Standard modules that would break a room's promise.
FORBIDDEN_STDLIB = {
    "repository": (
        ("time", "socket", "ssl", "http", "urllib", "ftplib", "smtplib"),
        "the format has no clock or network",
    ),
}
BAD_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "core", "misc"}
RECOVER = "repository.recovery.recover"


@dataclass
class Module:
    """One source file below the package: its dotted name without `opskit.`, and what it imports."""

    name: str
    path: Path
    lines: int
    tree: ast.Module
    imports: dict[str, bool] = field(default_factory=dict)
    """Absolute dotted name → whether it is imported at run time (False: only under TYPE_CHECKING)."""
    relative: bool = False


def load(package: Path) -> dict[str, Module]:
    """All modules below `package`, their imports resolved to modules where a name is one."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = list(path.relative_to(package).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        source = path.read_text(encoding="utf-8")
        modules[".".join(parts)] = Module(".".join(parts), path, len(source.splitlines()), ast.parse(source, str(path)))
    for module in modules.values():
        _collect(module.tree, module, modules, at_run_time=True)
    return modules


def _collect(node: ast.AST, module: Module, modules: dict[str, Module], *, at_run_time: bool) -> None:
    """Gather the imports below `node` into `module`."""
    for name in _imported(node, module, modules):
        module.imports[name] = module.imports.get(name, False) or at_run_time
    for key, value in ast.iter_fields(node):
        typing_only = isinstance(node, ast.If) and key == "body" and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                _collect(child, module, modules, at_run_time=at_run_time and not typing_only)


def _imported(node: ast.AST, module: Module, modules: dict[str, Module]) -> Iterator[str]:
    """The absolute names that one syntax node imports, `import_module("literal")` included."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module.relative |= node.level > 0
        for alias in node.names if node.level == 0 else ():
            whole = f"{node.module}.{alias.name}"
            yield whole if whole.removeprefix("opskit.") in modules else str(node.module)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def within(name: str, room: str) -> bool:
    """Whether a dotted name is the room or lies in it."""
    return room == "*" or name == room or name.startswith(room + ".")


def violations(package: Path) -> list[str]:
    """Every breach of the architecture below `package`, each one line with its reason."""
    modules = load(package)
    found = []
    for module in modules.values():
        found += [f"opskit/{module.path.relative_to(package)}: {text}" for text in _judge(module, modules)]
    return found + [f"import cycle: {' → '.join(cycle)}" for cycle in cycles(modules)]


def _judge(module: Module, modules: dict[str, Module]) -> Iterator[str]:
    yield from _shape(module)
    if module.relative:
        yield "relative import: absolute ones only, so that a reader sees which room is meant"
    row = _row(module.name)
    if module.name and row is None:
        yield "no row in ROOMS of tests/test_architecture.py: decide what this room may import"
    for target in module.imports:
        top = target.partition(".")[0]
        if top == "opskit":
            yield from _judge_internal(module.name, target.removeprefix("opskit").lstrip("."), row)
        elif top not in sys.stdlib_module_names:
            yield from _judge_third_party(module.name, top)
        else:
            yield from _judge_stdlib(module.name, top)


def _row(name: str) -> Room | None:
    """The most specific row for a module."""
    return max((room for room in ROOMS if within(name, room.name)), key=lambda room: len(room.name), default=None)


def _judge_internal(name: str, target: str, row: Room | None) -> Iterator[str]:
    if name == "":
        yield f"imports opskit.{target}: the package itself stays empty, so that importing one room loads one room"
    if row is None or target == "":
        return
    closed = any(within(target, room) for room in row.never) and target not in SEAMS
    permitted = _own(name, target, row) or (any(within(target, room) for room in row.may) and not closed)
    if row.name == "repository" and within(target, "repository.recovery"):
        permitted = False
    if not permitted:
        yield f"may not import opskit.{target}: {row.because}"


def _own(name: str, target: str, row: Room) -> bool:
    """Whether the target belongs to the importing module's own room."""
    if not row.isolated:
        return within(target, row.name)
    # An adapter that grew into a folder may use its own folder; the room's __init__ may use none of them.
    adapter = ".".join(name.split(".")[: row.name.count(".") + 2])
    return name != row.name and within(target, adapter)


def _judge_third_party(name: str, package: str) -> Iterator[str]:
    owners = OWNERS.get(COMPANIONS.get(package, package))
    if name == RECOVER:
        yield f"imports {package}: recover.py has the standard library alone, on the day when nothing can be installed"
    elif owners is None:
        yield f"imports {package}, which has no owner in OWNERS of tests/test_architecture.py"
    elif not any(within(name, owner) for owner in owners):
        yield f"imports {package}, owned by {', '.join(owners)}: each third-party package has one owner module"


def _judge_stdlib(name: str, package: str) -> Iterator[str]:
    for room, (packages, because) in FORBIDDEN_STDLIB.items():
        if within(name, room) and package in packages and name != RECOVER:
            yield f"imports {package}: {because}; pass it in"


def _shape(module: Module) -> Iterator[str]:
    """Size, docstring and names of one module."""
    most = MAX_RECOVER_LINES if module.name == RECOVER else MAX_MODULE_LINES
    if module.lines > most:
        yield f"{module.lines} lines: at most {most} in a module; divide it along an idea"
    if not ast.get_docstring(module.tree):
        yield "no module docstring: say what it does, its invariants, and what it deliberately does not do"
    bad = BAD_NAMES & set(re.split(r"[._]", module.name))
    if bad:
        yield f"named {', '.join(sorted(bad))}: name the idea, not the drawer"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{node.name}() at line {node.lineno} has {length} lines: at most {MAX_FUNCTION_LINES}"
        elif isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases):
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            if len(methods) > MAX_PROTOCOL_METHODS:
                yield f"protocol {node.name} has {len(methods)} methods: a seam has at most {MAX_PROTOCOL_METHODS}"
    if module.name == RECOVER:
        yield from _too_new(module.path)


def _too_new(path: Path) -> Iterator[str]:
    try:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    except SyntaxError as error:
        yield f"line {error.lineno}: {error.msg}: recover.py runs on Python 3.8"


def cycles(modules: dict[str, Module]) -> list[list[str]]:
    """Strongly connected modules (Tarjan 1972), by what is imported at run time, inside functions too."""
    edges = {
        name: sorted(
            short
            for target, at_run_time in module.imports.items()
            if at_run_time and target.startswith("opskit.") and (short := target.removeprefix("opskit.")) in modules
        )
        for name, module in modules.items()
    }
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in edges[name]:
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1 or name in edges[name]:
                found.append(component)

    for name in modules:
        if name not in order:
            visit(name)
    return found


def test_opskit_keeps_its_architecture() -> None:
    """No module of opskit breaks a row of the table, a size limit or a naming rule."""
    found = violations(PROJECT / "opskit")
    assert not found, "\n" + "\n".join(found)


def test_every_dependency_has_an_owner_and_every_owner_a_dependency() -> None:
    """pyproject.toml and OWNERS name the same packages, so neither a stray nor a forgotten dependency stays."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name not in {"test", "lint"}}
    lines = [*project["dependencies"], *(line for each in extras.values() for line in each)]
    declared = {re.split(r"[<>=!~\[; ]", line)[0].lower() for line in lines}
    assert {DISTRIBUTIONS.get(name, name) for name in declared} == set(OWNERS)


def test_recovery_script_is_where_the_rules_look_for_it() -> None:
    """The strictest rules guard a file that exists."""
    assert (PROJECT / "opskit" / "repository" / "recovery" / "recover.py").is_file()


A_LATER = "def f():\n    import opskit.operations.a"
# A planted violation: file → text, and a piece of the message that must name it.
PLANTED = [
    ({"stores/s3.py": "from opskit.stores.local import x"}, "stores/s3.py: may not import opskit.stores.local"),
    ({"stores/s3.py": "from opskit.stores import local"}, "stores/s3.py: may not import opskit.stores.local"),
    (
        {"stores/__init__.py": "from opskit.stores import local"},
        "stores/__init__.py: may not import opskit.stores.local",
    ),
    ({"stores/s3.py": "import opskit.gpg"}, "may not import opskit.gpg: an adapter knows its own seam"),
    ({"operations/sync.py": "from opskit.stores.local import x"}, "operations see bases, never a concrete adapter"),
    ({"operations/sync.py": "def f():\n    from opskit.stores.local import x"}, "may not import opskit.stores.local"),
    (
        {"operations/sync.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from opskit.config import x"},
        "may not import opskit.config",
    ),
    ({"operations/sync.py": "import importlib\nimportlib.import_module('opskit.wiring')"}, "opskit.wiring"),
    (
        {"repository/index.py": "from opskit.config import model"},
        "may not import opskit.config.model: the format is pure",
    ),
    ({"repository/index.py": "import socket"}, "imports socket: the format has no clock or network"),
    ({"repository/index.py": "from opskit.repository.recovery import recover"}, "opskit.repository.recovery"),
    ({"cli/backup.py": "from opskit.stores.local import x"}, "may not import opskit.stores.local: adapters are made"),
    ({"wiring.py": "import opskit.cli"}, "may not import opskit.cli"),
    ({"errors.py": "import opskit.log"}, "every other room raises these"),
    ({"__init__.py": "import opskit.gpg"}, "the package itself stays empty"),
    ({"newroom/thing.py": ""}, "newroom/thing.py: no row in ROOMS"),
    ({"newmodule.py": ""}, "newmodule.py: no row in ROOMS"),
    ({"cli/backup.py": "from . import render"}, "relative import"),
    ({"operations/sync.py": "import zstandard"}, "imports zstandard, owned by repository.pack"),
    ({"operations/sync.py": "import pydantic_core"}, "imports pydantic_core, owned by config"),
    ({"operations/sync.py": "import flask"}, "imports flask, which has no owner"),
    ({"repository/recovery/recover.py": "import yaml"}, "recover.py has the standard library alone"),
    ({"repository/recovery/recover.py": "import opskit.errors"}, "recover.py must run where opskit is gone"),
    ({"repository/recovery/recover.py": "match 1:\n    case _: pass"}, "recover.py runs on Python 3.8"),
    ({"gpg.py": "def f():\n    import opskit.gpg"}, "import cycle: gpg"),
    ({"operations/a.py": "import opskit.operations.b", "operations/b.py": A_LATER}, "import cycle: operations."),
    ({"operations/sync.py": "x = 1\n" * 400}, "401 lines: at most 400"),
    ({"operations/sync.py": "def f():\n" + "    x = 1\n" * 60}, "f() at line 2 has 61 lines"),
    ({"operations/helpers.py": ""}, "named helpers"),
    ({"operations/sync_manager.py": ""}, "named manager"),
    (
        {"sources/base.py": "class S(Protocol):\n" + "".join(f"    def m{i}(self): ...\n" for i in range(5))},
        "protocol S has 5 methods",
    ),
]
CLEAN = {
    "__init__.py": "",
    "errors.py": "",
    "gpg.py": "import gnupg\nfrom opskit import errors",
    "config/model.py": "import pydantic\nfrom opskit.secrets import reference",
    "secrets/reference.py": "from opskit import errors",
    "stores/base.py": "import opskit.errors",
    "stores/local.py": "from opskit.stores.base import Store",
    "sources/base.py": "",
    "sources/files/walk.py": "from opskit.sources.files import exclude\nfrom opskit.sources.base import Source",
    "sources/files/exclude.py": (
        "import pathspec\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import opskit.sources.files.walk"
    ),
    "repository/pack.py": "import zstandard\nfrom opskit.stores.base import Store",
    "repository/recovery/recover.py": "import os, time",
    "operations/backup.py": "from opskit.repository.pack import x\nfrom opskit.sources.base import Source",
    "wiring.py": "from opskit.stores.local import x\nfrom opskit.operations import backup",
    "cli/main.py": "import typer\nfrom opskit import wiring, __version__\nfrom opskit.stores.base import Store",
}


def plant(package: Path, files: dict[str, str]) -> Path:
    """Write source files, each with a docstring before its text."""
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""Planted."""\n{text}', encoding="utf-8")
    return package


def test_a_clean_tree_passes(tmp_path: Path) -> None:
    """What the table permits raises no objection, so the planted cases below fail for their own reason."""
    assert violations(plant(tmp_path, CLEAN)) == []


@pytest.mark.parametrize(("files", "message"), PLANTED, ids=[message[:50] for _, message in PLANTED])
def test_planted_violations_are_caught(tmp_path: Path, files: dict[str, str], message: str) -> None:
    """One breach in a clean tree gives exactly one complaint, and it names the breach and the reason."""
    found = violations(plant(tmp_path, CLEAN | files))
    assert len(found) == 1 and message in found[0], found


def test_a_module_without_docstring_is_caught(tmp_path: Path) -> None:
    """An empty module draws a complaint."""
    plant(tmp_path, CLEAN)
    (tmp_path / "operations" / "sync.py").write_text("")
    assert [text for text in violations(tmp_path) if "operations/sync.py: no module docstring" in text]

"""main(): exit codes, streams, errors and global options, seen as a user of the program sees them."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import typer

from opskit import __version__, log
from opskit.cli import commands, context, failures, main, story
from opskit.errors import Interrupted, NotMounted, OpskitError, SnapshotNotFound
from tests.cli.running import OPSKIT, clean, opskit

Act = Callable[[context.Context], int | None]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def acting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Act], None]:
    """Add a command `act` to the program that does what the test says."""

    def install(act: Act) -> None:
        from opskit.cli.options import GLOBAL_NAMES, build, noun

        app = noun()

        @app.command()
        def command(
            typer_context: typer.Context,
            words: Annotated[list[str] | None, typer.Argument()] = None,
            tag: Annotated[str, typer.Option("--tag")] = "",
        ) -> int | None:
            """Act."""
            seen.update(words=words, tag=tag)
            return act(context.Context.of(typer_context))

        def load(self: commands.LazyGroup, name: str) -> object:
            return build(app, [each for each in self.params if each.name in GLOBAL_NAMES])

        monkeypatch.setitem(commands.COMMANDS, "act", ("act", "Act."))
        monkeypatch.setattr(commands.LazyGroup, "load", load)

    seen: dict[str, object] = {}
    install.seen = seen  # type: ignore[attr-defined]
    return install


def failing(error: BaseException) -> Act:
    def act(_context: context.Context) -> int:
        raise error

    return act


def noted(error: BaseException, note: str) -> BaseException:
    error.add_note(note)
    return error


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_what_a_command_returns_is_the_exit_code(
    acting: Callable[[Act], None], returned: int | None, code: int
) -> None:
    """A command that returns nothing exits with 0, a bad answer with its own code."""
    acting(lambda _: returned)
    assert main(["act"]) == code


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OpskitError("no luck"), 1, "no luck"),
        (SnapshotNotFound("no snapshot 'x'"), 10, "no snapshot 'x'"),
        (NotMounted("not mounted at /mnt"), 23, "not mounted at /mnt"),
        (Interrupted("stopped"), 130, "stopped"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (noted(KeyboardInterrupt(), "what is done is kept"), 130, "interrupted; what is done is kept"),
        (typer.Abort(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "no space left on device: /x"),
        (ValueError("odd"), 1, "unexpected ValueError: odd"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "unexpected BrokenPipeError: [Errno 32] Broken pipe"),
    ],
)
def test_every_error_has_its_code_and_one_line(
    acting: Callable[[Act], None], capsys: Capture, error: BaseException, code: int, message: str
) -> None:
    """An error ends with its own exit code, its message on stderr and nothing on stdout; no traceback."""
    acting(failing(error))
    assert main(["act"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == f"opskit: error: {message}"
    assert "Traceback" not in err


def test_the_hint_stands_on_its_own_line(acting: Callable[[Act], None], capsys: Capture) -> None:
    """What to do next follows the error on a line that says so, and every line of a long message is marked."""
    acting(failing(OpskitError("one\ntwo", hint="do this")))
    main(["act"])
    assert capsys.readouterr().err.splitlines() == ["opskit: error: one", "opskit: error: two", "opskit: hint: do this"]


@pytest.mark.parametrize("arguments", [["act", "--json"], ["--json", "act"]])
def test_json_errors_are_one_object_on_stdout(
    acting: Callable[[Act], None], capsys: Capture, arguments: list[str]
) -> None:
    """With --json the same error is on stdout too, as one JSON document."""
    acting(failing(SnapshotNotFound("none", hint="list them")))
    assert main(arguments) == 10
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"message": "none", "hint": "list them", "exit_code": 10}}
    assert err.startswith("opskit: error: none\n")


def test_a_wrong_command_line_is_json_too(capsys: Capture) -> None:
    """--json counts even where the command line could not be parsed as a whole."""
    assert main(["config", "validate", "--json", "--bogus"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_debug_shows_the_traceback(acting: Callable[[Act], None], capsys: Capture) -> None:
    """The traceback appears with --debug, on stderr, before the error."""
    acting(failing(ValueError("odd")))
    assert main(["act", "--debug"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Traceback") and "opskit: error: unexpected ValueError: odd" in err


def test_errors_carry_no_registered_secret_and_no_escape_sequence(
    acting: Callable[[Act], None], capsys: Capture
) -> None:
    """A registered secret is cut out of messages, hints and tracebacks; control characters are escaped."""
    log.register_secret("hunter2hunter2")
    acting(failing(ValueError("pass hunter2hunter2 \x1b[31m\udcff")))
    main(["act", "--debug"])
    err = capsys.readouterr().err
    assert "hunter2" not in err and "\x1b" not in err
    assert "pass [secret] \\x1b[31m\\xff" in err


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["confg"], "no such command 'confg'", "did you mean 'config'?"),
        (["config", "shw"], "no such command 'shw'", "did you mean 'show'?"),
        (
            ["config"],
            "missing command, expected one of validate, show, schema, generate, iam-policy",
            "`opskit config --help`",
        ),
        (["config", "show", "--jsn"], "no such option: --jsn", "did you mean --json?"),
        (["--config"], "option '--config' requires an argument", "`opskit --help`"),
        (["config", "show", "extra"], "got unexpected extra argument(s) (extra)", "`opskit config show --help`"),
        (["\x1b[2J"], "no such command '\\x1b[2J'", "`opskit --help`"),
    ],
)
def test_wrong_command_lines_exit_2_with_the_way_out(
    capsys: Capture, arguments: list[str], error: str, hint: str
) -> None:
    """A command line that makes no sense exits with 2, in the form of every other error, and names the likely fix."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first == f"opskit: error: {error}"
    assert second.startswith("opskit: hint: ") and hint in second


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--quiet", "--debug", "--no-color", "--config", "F", "act", "--tag", "T", "w"],
        ["act", "--tag", "T", "w", "--json", "--quiet", "--debug", "--no-color", "--config=F"],
        ["--json", "--config", "other", "act", "--quiet", "--tag=T", "--config", "F", "w", "--debug", "--no-color"],
    ],
)
def test_global_options_work_before_and_after_the_command(acting: Callable[[Act], None], arguments: list[str]) -> None:
    """Each global option counts wherever it stands; of two values the one nearer to the command's end wins."""
    found: list[context.Context] = []
    acting(lambda given: found.append(given))
    assert main(arguments) == 0
    (given,) = found
    assert (given.json, given.quiet, given.debug, given.no_color) == (True, True, True, True)
    assert given.config_option == Path("F")
    assert acting.seen == {"words": ["w"], "tag": "T"}  # type: ignore[attr-defined]


def test_values_that_look_like_global_options_stay_values(acting: Callable[[Act], None]) -> None:
    """After `--`, and as the value of another option, `--json` is a word."""
    found: list[context.Context] = []
    acting(lambda given: found.append(given))
    assert main(["act", "--tag", "--json", "--", "--quiet"]) == 0
    assert (found[0].json, found[0].quiet) == (False, False)
    assert acting.seen == {"words": ["--quiet"], "tag": "--json"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [["--version"], ["config", "--version"], ["config", "show", "--version"]])
def test_version(capsys: Capture, arguments: list[str]) -> None:
    """--version shows the version anywhere and runs nothing."""
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"opskit {__version__}\n"


def test_quiet_silences_messages_but_not_results_or_warnings(acting: Callable[[Act], None], capsys: Capture) -> None:
    """--quiet drops messages and hints; results, and warnings, stay."""

    def act(given: context.Context) -> None:
        given.message("passing")
        given.hint("next")
        given.warning("look")
        given.write("result")

    acting(act)
    assert main(["act", "--quiet"]) == 0
    assert tuple(capsys.readouterr()) == ("result\n", "opskit: warning: look\n")
    assert main(["act"]) == 0
    assert capsys.readouterr().err == "passing\nopskit: hint: next\nopskit: warning: look\n"


def test_a_failing_exit_after_an_interrupt_is_an_interrupt(acting: Callable[[Act], None], capsys: Capture) -> None:
    """When a signal came, the error of a child that the same signal killed is not reported in its place."""

    def act(_given: context.Context) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise OpskitError("gpg was killed")

    acting(act)
    assert main(["act"]) == 130
    assert capsys.readouterr().err == "opskit: error: interrupted\n"


def test_a_demonstration_keeps_nothing_outside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the story's commands keep of its config lies in the story's folder, and goes with it."""
    stage, elsewhere = tmp_path / "stage", tmp_path / "elsewhere"
    for folder in (stage, elsewhere):
        folder.mkdir()
    (stage / "opskit.yaml").write_text(
        "version: 1\nstate_dir: state\nsources: {data: {paths: [data]}}\n"
        f"destinations: {{disk: {{path: copy}}}}\nkeys: {{recipients: [{'A' * 40}]}}\n"
    )
    (stage / "opskit.yaml").chmod(0o600)
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere))
    told = story.Stage(stage, stage / "data", lambda _: None)
    told.run("--quiet", "backup", "--dry-run", "nobody", expect=2)
    assert len(list((stage / "cache" / "opskit").iterdir())) == 1 and not list(elsewhere.iterdir())


def test_without_arguments_the_help_is_shown(capsys: Capture) -> None:
    """`opskit` alone explains itself."""
    assert main([]) == 0
    alone = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert alone == capsys.readouterr().out != ""


def test_colour_only_on_a_terminal_that_wants_it(tmp_path: Path) -> None:
    """On a pipe an error has no escape sequence, whatever TERM says."""
    assert "\x1b" not in opskit("bogus", cwd=tmp_path, TERM="xterm-256color").stderr


@pytest.mark.parametrize(
    ("arguments", "environ", "coloured"),
    [([], {}, True), (["--no-color"], {}, False), ([], {"NO_COLOR": "1"}, False), ([], {"TERM": "dumb"}, False)],
)
def test_colour_on_a_terminal(arguments: list[str], environ: dict[str, str], coloured: bool) -> None:
    """On a terminal the label of an error is coloured, unless --no-color, NO_COLOR or the terminal forbids it."""
    master, terminal = pty.openpty()
    run = [*OPSKIT, *arguments, "bogus"]
    subprocess.run(run, stderr=terminal, env=clean({"TERM": "xterm", **environ}), check=False, timeout=60)
    os.close(terminal)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert ("\x1b[31mopskit: error:\x1b[0m no such" in shown) == coloured
    assert ("\x1b" in shown) == coloured


def test_the_environment_chooses_json_logs(
    acting: Callable[[Act], None], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With OPSKIT_LOG=json each event from level info up is a JSON line on stderr."""

    def act(_given: context.Context) -> None:
        log.logger("x").info("done", count=3)
        log.logger("x").debug("detail")

    acting(act)
    monkeypatch.setenv("OPSKIT_LOG", "json")
    assert main(["act"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and json.loads(err)["count"] == 3


def test_debug_shows_debug_events(acting: Callable[[Act], None], capsys: Capture) -> None:
    """--debug, wherever it stands, lets debug events through."""
    acting(lambda _: log.logger("x").debug("detail"))
    assert main(["act"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["act", "--debug"]) == 0
    assert "x: detail" in capsys.readouterr().err


def test_a_signal_during_the_report_does_not_break_it(
    acting: Callable[[Act], None], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while an error is being reported leaves that error and its exit code."""
    whole = failures.report

    def report(*arguments: object, **options: object) -> None:
        signal.raise_signal(signal.SIGINT)
        whole(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(failures, "report", report)
    acting(failing(SnapshotNotFound("none")))
    assert main(["act"]) == 10
    assert "opskit: error: none" in capsys.readouterr().err

"""`opskit demo`: the whole story on a throwaway folder, with throwaway keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun

app = noun()


@app.command()
def demo(
    typer_context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="What to back up; sample tokens if none. It is only read.")
    ] = None,
) -> int | None:
    """Show backup, damage and restore on PATH or sample tokens."""
    import tempfile

    from opskit.cli.render import counted
    from opskit.cli.story import Stage, make_tokens, tell_story
    from opskit.errors import SourceError

    context = Context.of(typer_context)
    if path is not None and not path.exists():
        raise SourceError(f"{path} is not there")
    with tempfile.TemporaryDirectory(prefix="opskit-demo-") as name:
        folder = Path(os.path.realpath(name))
        data = Path(os.path.realpath(path)) if path is not None else folder / "tokens"
        if path is None:
            make_tokens(data)

        def say(text: str) -> None:
            write = context.message if context.json else context.write
            write(context.styled(text, "bold" if text.startswith("$") else "dim"))
            context.flush()

        count = tell_story(Stage(folder, data, say, context.stderr if context.json else None))
    if context.json:
        context.write_json({"proved": True, "files": count})
        return 0
    context.write("")
    context.write(context.styled(f"PROVED: {counted(count, 'file')} restored, equal byte for byte", "green"))
    return 0

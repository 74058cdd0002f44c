"""Running opskit in a process of its own, for what cannot be seen from inside: imports, signals, descriptors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

OPSKIT = [sys.executable, "-c", "import sys; from opskit.cli import main; sys.exit(main())"]
COMPLETE = {"_OPSKIT_COMPLETE": "complete_bash"}


def opskit(*arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program with these arguments and additions to a clean environment."""
    return subprocess.run(
        [*OPSKIT, *arguments], cwd=cwd, env=clean(environ), capture_output=True, text=True, check=False, timeout=60
    )


def python(code: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=clean(environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def clean(additions: Mapping[str, str]) -> dict[str, str]:
    """This environment without what changes opskit's behaviour, so that tests see the defaults."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # PYTHONUNBUFFERED for one would hide what happens to output at the end of a process.
        if not name.startswith(("PYTHON", "OPSKIT_")) and name not in {"NO_COLOR", "TERM", "COLUMNS"}
    }
    return {**kept, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **additions}

"""`cmd:["PROGRAM","ARGUMENT",…]`: the secret that a program of yours writes, for stores that opskit does not know.

    cmd:["pass","show","db"]        a list of JSON; blanks, '#', '?' and '%' in it are percent-encoded

A reference may come from wherever somebody can write one, and this one runs a program: so it works only where who runs
opskit has said so, by `OPSKIT_CMD_REFERENCES=yes` in its environment. No shell, nothing on stdin, no terminal; what it
writes to stdout is the secret, without its last line end, and shown nowhere; stderr is shown, in a
line, where it fails.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping

from opskit.errors import SecretStoreError, UnresolvedReference
from opskit.secrets.reference import Reference, Secret, refuse_unknown_parts
from opskit.secrets.words import last_words

SWITCH = "OPSKIT_CMD_REFERENCES"
TIMEOUT = 60.0
"""Seconds."""
_LARGEST = 1024 * 1024


class CommandScheme:
    """Runs the program of a reference with `environ`, which also says whether it may."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def resolve(self, reference: Reference) -> Secret:
        """What the program writes. Raises UnresolvedReference where it may not run, SecretStoreError where it fails."""
        refuse_unknown_parts(reference)
        argv = _argv(reference)
        if self._environ.get(SWITCH) != "yes":
            raise UnresolvedReference(
                f"{reference} runs a program: expected {SWITCH}=yes in the environment, it is not set",
                hint=f"if you trust whoever wrote that reference: export {SWITCH}=yes",
            )
        return Secret(self._answer(reference, argv).removesuffix(b"\n"))

    def _answer(self, reference: Reference, argv: list[str]) -> bytes:
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False,
                env=dict(self._environ), start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            # `from None`: the cause carries what the program said so far.
            raise SecretStoreError(f"{argv[0]} did not give {reference} within {TIMEOUT:.0f} s") from None
        except (OSError, ValueError) as error:
            reason = (error.strerror or "error").lower() if isinstance(error, OSError) else "a NUL in its arguments"
            raise SecretStoreError(f"cannot run {argv[0]}: {reason}") from None
        if done.returncode != 0:
            told = last_words(done.stdout, done.stderr) or f"it ended with status {done.returncode}"
            raise SecretStoreError(f"{argv[0]} did not give {reference}: {told}", hint="run it by hand")
        if len(done.stdout) > _LARGEST:
            raise SecretStoreError(f"{argv[0]} gives too much: expected a secret of at most {_LARGEST:,} bytes")
        return done.stdout


def _argv(reference: Reference) -> list[str]:
    try:
        found = json.loads(reference.locator)
    except ValueError:
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(word, str) for word in found) or not found[0]:
        raise UnresolvedReference(f'{reference} is malformed: expected a list of words, as cmd:["pass","show","db"]')
    return found

"""`env:NAME`: a secret in an environment variable.

The environment is passed in. It is inherited by child processes and shown by some service managers:
`cred:` and `file:` are the better places on a server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from opskit.errors import UnresolvedReference
from opskit.secrets.reference import Reference, Secret, refuse_unknown_parts

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvironmentScheme:
    """Scheme `env` over the given environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def resolve(self, reference: Reference) -> Secret:
        """The variable's value, byte for byte. Raises UnresolvedReference when it is unset or empty."""
        refuse_unknown_parts(reference)
        name = reference.locator
        if not _NAME.fullmatch(name):
            raise UnresolvedReference(f"{reference} is malformed: expected env:NAME, NAME of A-Z, 0-9 and _")
        value = self._environ.get(name)
        if not value:
            found = "it is not set" if value is None else "it is empty"
            raise UnresolvedReference(
                f"{reference} cannot be resolved: expected a value in the environment variable {name}, {found}",
                hint=f"export {name} before opskit starts, or use file:///path or cred://name",
            )
        return Secret(os.fsencode(value))

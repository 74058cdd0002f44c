"""A certificate for `localhost`, that signs itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def certificate(folder: Path) -> tuple[Path, Path]:
    """The files of a new certificate and its key, which servers of other users can read."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate")
    public, private = folder / "cert.pem", folder / "key.pem"
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(private), "-out", str(public)]
    subprocess.run([*new.split(), *names], check=True, capture_output=True)
    private.chmod(0o644)
    return public, private

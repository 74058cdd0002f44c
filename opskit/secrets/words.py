"""What programs that give secrets say when they fail, in one line for people.

Invariant: what such a program wrote to stdout is hidden, as it may be the secret: `sh -x` writes it to stderr too.
"""

from __future__ import annotations

from opskit.secrets.masking import Masker

_TOLD = 300
_READ = 64 * 1024


def last_words(out: bytes, err: bytes) -> str:
    """The end of `err`, at most 300 characters, "" where it is empty."""
    masker = Masker([out[:_READ].strip()])
    shown = masker.feed(err[-_READ:]) + masker.finish()
    return " ".join(shown.decode(errors="replace").split())[-_TOLD:]

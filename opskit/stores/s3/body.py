"""What a request sends: bytes that lie elsewhere, as the file that botocore wants, and never copied.

botocore makes files of bytes, and urllib3 sends files in pieces of 16 KiB: thousands of turns at Python's lock for a
pack. And a view it does not take at all, so that every pack would lie in memory twice while it is sent.
"""

from __future__ import annotations

from opskit.stores.base import Buffer


def octets(data: Buffer) -> memoryview:
    """The bytes of `data`, which the caller keeps unchanged, one by one and without a copy."""
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")


class Body:
    """A file over `octets`. It is read in one piece, whatever was asked for, so that it is sent in one piece.

    It can be rewound, so that a request can be repeated. `sha256` is the lower-case hex hash of it all.
    """

    def __init__(self, octets: memoryview, sha256: str) -> None:
        self.sha256 = sha256
        self._view = octets
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, _size: int = -1) -> memoryview | bytes:
        """All that is left; b"" at the end, which is how readers know it."""
        left = self._view[self._position :]
        self._position = len(self._view)
        return left or b""

    def seek(self, position: int) -> int:
        """Go to a position, in bytes from the beginning."""
        self._position = position
        return position

    def tell(self) -> int:
        """The position, in bytes from the beginning."""
        return self._position

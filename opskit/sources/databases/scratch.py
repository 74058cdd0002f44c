"""A dump loaded into a new database on a server, to look at it: the way back of `dumps`.

Invariants: no database that exists is ever written to, as the server itself refuses to make it a second time; a
database that could not be loaded whole, because the dump broke off or a statement failed, is dropped again; so is one
whose dump was cut off when it was made, to which no server objects. The end of what is written counts as the end of the
dump only where the block ended well: a pipe cannot tell the two apart.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, cast

from opskit.errors import SourceError
from opskit.sources.databases.dumps import MAX_ANSWER, Programs
from opskit.sources.loading import HEAD, TAIL, cut_off
from opskit.sources.output import CommandOutput, whole


class ScratchDatabase:
    """The database `name`, which is not there yet."""

    def __init__(self, programs: Programs, name: str) -> None:
        self._programs = programs
        self._commands = programs.client.scratch(name)

    @contextmanager
    def filled(self) -> Iterator[BinaryIO]:
        """Make it, and load what is written to the stream; raises SourceError where either fails."""
        self._programs.require()
        ends = _Ends()
        with _hinted("give a name that is not taken, and a user who may make databases"):
            self._programs.ask(self._commands.make)
        try:
            program = self._programs.start(self._commands.load, self._programs.around.tell, reads=True)
            try:
                with suppress(BrokenPipeError):  # it ended before the dump did, and its status says why
                    yield from _written(program, ends)
                with _hinted(
                    "the new database was dropped again; what a dump needs, roles for instance, must be there"
                ):
                    whole(program, MAX_ANSWER)
                if why := cut_off(ends.head, ends.tail):
                    raise SourceError(
                        f"the dump: {why}", hint="the new database was dropped again; try an older snapshot"
                    )
            finally:
                program.close()
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        try:
            self._programs.ask(self._commands.drop)
        except SourceError as error:  # what went wrong before matters more
            self._programs.around.tell(f"the database that was not loaded whole could not be dropped: {error}")


@contextmanager
def _hinted(hint: str) -> Iterator[None]:
    try:
        yield
    except SourceError as error:
        error.hint = hint  # that of a backup does not fit
        raise


class _Ends:
    """Remembers how what passes begins and ends."""

    def __init__(self) -> None:
        self.head, self.tail = b"", b""

    def note(self, data: bytes | memoryview) -> None:
        """More of it passes."""
        if len(self.head) < HEAD:
            self.head += bytes(data[: HEAD - len(self.head)])
        self.tail = (self.tail + bytes(data[-TAIL:]))[-TAIL:]


class _Noted(io.BufferedWriter):
    """A stream that tells what is written."""

    def __init__(self, raw: io.RawIOBase, ends: _Ends) -> None:
        super().__init__(raw)
        self._ends = ends

    def write(self, data: Any, /) -> int:
        self._ends.note(data)
        return super().write(data)


def _written(program: CommandOutput, ends: _Ends) -> Iterator[BinaryIO]:
    """A stream into a program, whose end is told where the block ends well."""
    stream = _Noted(cast(io.RawIOBase, program.input), ends)  # a raw pipe may take less than it is given
    try:
        yield stream
        stream.flush()
    finally:
        with suppress(OSError):
            stream.close()

"""Where an SFTP store lies, and what says who is there; no secret among it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 22


@dataclass(frozen=True, slots=True)
class SftpPlace:
    """A folder at a server. A `path` that does not begin with "/" begins in the folder that the account logs in to.

    `known_hosts` is the one file that is believed about the server's key; None: those that ssh believes. With an
    `identity_file` no other key is offered, without one those of the agent and of ~/.ssh.
    """

    host: str
    path: str
    port: int = DEFAULT_PORT
    user: str | None = None
    identity_file: Path | None = None
    known_hosts: Path | None = None

    @property
    def server(self) -> str:
        """The server as ssh and known_hosts write it: host, or [host]:port."""
        return self.host if self.port == DEFAULT_PORT else f"[{self.host}]:{self.port}"

    @property
    def location(self) -> str:
        """What a person would type to reach this place."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        path = self.path if self.path.startswith("/") else f"/~/{self.path}"
        return f"sftp://{user}{host}{port}{path}"

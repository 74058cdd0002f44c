"""SSH keys that a file of authorized keys on this machine accepts. Importing it loads no cryptography."""

from __future__ import annotations

from opskit.secrets.rotation.targets.ssh.target import SshKeys, SshSettings

__all__ = ["SshKeys", "SshSettings"]

"""opskit: encrypted 3-2-1 backups, proven restores and the evidence for both."""

__version__ = "0.1.0"

"""Snapshots as folders that can be looked into: entries by path, and any bytes of any file, without a restore."""

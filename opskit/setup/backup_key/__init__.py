"""The rotation target of opskit's own backup keys."""

"""The audit log: what opskit did, for whom and how it ended, in a chain of records that cannot be quietly changed.

docs/audit.md has the format byte for byte and says who can forge what.
"""

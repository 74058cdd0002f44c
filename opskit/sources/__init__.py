"""What is backed up: one module or folder a kind of source, all behind the Protocol in base.

Adapters know nothing but `opskit.errors` and their own base; wiring makes them. Nothing in this room decides what is
unchanged, cuts chunks or writes anything.
"""

"""Rotation: a secret gets a new value, and at every moment what its users hold is accepted."""

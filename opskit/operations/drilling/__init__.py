"""Restore drills: choose a snapshot and a copy, restore from that copy alone, check, measure, wipe, tell.

`choose` decides what is drilled, `scratch` is the place, `expected` and `comparing` hold what was restored against the
tree, `checks` runs the source's own commands and SQLite's, `run` does it all, `stock` restores with the recovery kit,
`records` signs and keeps the evidence, `report` shows it.
"""

"""What a `verify` reads of each copy, and the ledger of what was read back when.

`budget` says how much, `ledger` remembers, `turn` chooses and notes, `coverage` sums up, `readback` reads.
"""

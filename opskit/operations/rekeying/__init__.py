"""Rekey: encrypt run keys to other recipients, at every copy, so that the data under them stays as it is.

`survey` says what is there, `merging` which run keys go together (pure), `rekey` makes the new key objects and the
mark, `finish` takes the old ones away. `openers` tells whose private key opens what, without any key.
"""

"""A process to be killed: backs one folder up, or holds a lock. Started by tests as `python -m tests.faults.child`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from opskit.gpg import Keyring
from opskit.operations.lock import exclusive
from opskit.stores.local import LocalStore
from tests.repositories import Keys, Lab


def main(arguments: list[str]) -> None:
    """`lock FILE`, or `backup HOME HOST-KEY RECIPIENT TRUSTED STATE REPOSITORY SOURCE`; says "go" when it begins."""
    if arguments[0] == "lock":
        with exclusive(Path(arguments[1])):
            _go()
            time.sleep(600)
    home, host_key, recipient, trusted, state, repository, source = arguments[1:]
    keys = Keys(Keyring(Path(home)), host_key, [], [recipient], Path(trusted))
    lab = Lab(keys, Path(state), {"a": LocalStore(Path(repository))})
    _go()
    lab.backup(Path(source))


def _go() -> None:
    sys.stdout.write("go\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

"""The hosts of the command line's tests."""

from tests.cli.conftest import backed_up, set_up, used

__all__ = ["backed_up", "set_up", "used"]

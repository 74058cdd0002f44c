"""What every rotation target keeps to, whatever it is: the contract in `opskit.secrets.rotation.base`.

Each kind has a module in `targets` with a function `lab`, a context manager that starts the real thing and gives a
`Lab`; a kind whose program is missing here is skipped by name.
"""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Iterator
from importlib import import_module

import pytest

from opskit.secrets.reference import Secret
from tests.contracts import targets
from tests.contracts.targets import KINDS, Lab

for each in pkgutil.iter_modules(targets.__path__):
    import_module(f"{targets.__name__}.{each.name}")


@pytest.fixture(params=sorted(KINDS))
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A target that accepts one value, `lab.first`."""
    with KINDS[request.param](tmp_path_factory.mktemp("lab")) as made:
        yield made


def _new(lab: Lab) -> Secret:
    return lab.target.create(lab.first, time.time())


def test_create_touches_nothing_that_is_accepted(lab: Lab) -> None:
    """A new value differs from the current one, which stays accepted."""
    made = _new(lab)
    assert made.reveal_bytes() != lab.first.reveal_bytes()
    assert lab.target.verify(lab.first)


def test_a_value_is_accepted_after_apply(lab: Lab) -> None:
    """What was applied is accepted; the one before stays so exactly where the target says that it keeps it."""
    made = _new(lab)
    lab.target.apply(made, lab.first)
    assert lab.target.verify(made)
    assert lab.target.verify(lab.first) is lab.target.keeps_old


def test_apply_can_be_repeated(lab: Lab) -> None:
    """Applying twice, as after a crash, ends as applying once."""
    made = _new(lab)
    lab.target.apply(made, lab.first)
    lab.target.apply(made, made)
    assert lab.target.verify(made)
    assert lab.target.verify(lab.first) is lab.target.keeps_old


def test_the_old_value_is_refused_once_revoked(lab: Lab) -> None:
    """What was revoked is refused, the kept one is not; twice does no harm."""
    made = _new(lab)
    lab.target.apply(made, lab.first)
    for _ in range(2):
        lab.target.revoke(lab.first, made, final=False)
        assert not lab.target.verify(lab.first)
        assert lab.target.verify(made)


def test_a_revocation_can_be_taken_back(lab: Lab) -> None:
    """The old value, applied after a revocation that was not final, is accepted again."""
    made = _new(lab)
    lab.target.apply(made, lab.first)
    lab.target.revoke(lab.first, made, final=False)
    lab.target.apply(lab.first, made)
    assert lab.target.verify(lab.first)
    assert lab.target.verify(made) is lab.target.keeps_old


def test_a_final_revocation_can_be_repeated(lab: Lab) -> None:
    """Deleting follows disabling, or does not; either way the kept value stays, and a repetition is no error."""
    made = _new(lab)
    lab.target.apply(made, lab.first)
    for _ in range(2):
        lab.target.revoke(lab.first, made, final=True)
    assert not lab.target.verify(lab.first)
    assert lab.target.verify(made)


def test_the_new_value_can_be_given_up(lab: Lab) -> None:
    """A rollback: the old value is accepted again or still, and the new one, revoked for good, is not."""
    made = _new(lab)
    lab.target.apply(made, lab.first)
    if not lab.target.verify(lab.first):
        lab.target.apply(lab.first, made)
    lab.target.revoke(made, lab.first, final=True)
    assert lab.target.verify(lab.first)
    assert not lab.target.verify(made)


def test_a_value_that_was_never_applied_is_refused(lab: Lab) -> None:
    """Verify tells what is accepted: a value of the right shape that the target does not know is False, no error."""
    if lab.makes_values:
        pytest.skip("this target makes its values, so that it knows all there are")
    assert not lab.target.verify(_new(lab))


def test_rotating_again_and_again(lab: Lab) -> None:
    """Five rotations in a row, each with its old value deleted, leave exactly the last value accepted."""
    old = lab.first
    for _ in range(5):
        made = lab.target.create(old, time.time())
        lab.target.apply(made, old)
        lab.target.revoke(old, made, final=False)
        lab.target.revoke(old, made, final=True)
        assert lab.target.verify(made)
        assert not lab.target.verify(old)
        old = made

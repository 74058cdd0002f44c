"""Every kind of rotation in the example config becomes its target, without a connection to anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opskit.cli.rotation_plan import keeps_old
from opskit.config.load import load
from opskit.config.rotating import Rotation
from opskit.errors import UnresolvedReference
from opskit.rotationtargets import Means, target_of
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.base import Foreseeing, Keeper, Witness
from opskit.secrets.rotation.commands import Programs

EXAMPLE = Path(__file__).resolve().parent.parent / "config.example.yaml"
KEEPS_OLD = {
    "wallet": True, "app-db": True, "shop-db": True, "crm-db": True, "queue": True, "uploader": True,
    "deploy-key": True, "web-certificate": False, "recovery-key": True,
}  # fmt: skip
WITNESSES = {"app-db", "shop-db", "uploader"}
KEEPERS = {"recovery-key"}


def resolve(reference: Reference) -> Secret:
    raise UnresolvedReference(f"{reference} was asked for too early")


@pytest.mark.parametrize("name", KEEPS_OLD)
def test_the_example_names_every_kind(name: str) -> None:
    """Each entry makes a target; no secret is resolved and no server asked before a rotation begins."""
    target = target_of(load(EXAMPLE).rotations[name], Means(Programs(os.environ), resolve, lambda: 0.0, EXAMPLE))
    assert target.keeps_old is KEEPS_OLD[name] is keeps_old(load(EXAMPLE).rotations[name])
    assert isinstance(target, Witness) is (name in WITNESSES)
    assert isinstance(target, Keeper) is isinstance(target, Foreseeing) is (name in KEEPERS)


def test_every_kind_is_in_the_example() -> None:
    """The example leaves no kind out."""
    shown = {entry.kind for entry in load(EXAMPLE).rotations.values()}
    assert shown == {kind.kind for kind in Rotation.__args__}  # type: ignore[attr-defined]


def test_one_role_of_postgresql_is_replaced() -> None:
    """With one name in users the password of that role is replaced."""
    entry = load(EXAMPLE).rotations["app-db"]
    entry = entry.but(postgresql=entry.postgresql.but(users=("app",), owner=None))
    assert keeps_old(entry) is False
    assert target_of(entry, Means(Programs(os.environ), resolve, lambda: 0.0, EXAMPLE)).keeps_old is False

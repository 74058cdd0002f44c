"""Verifiers of passwords are those that servers compute."""

from __future__ import annotations

import pytest

from opskit.secrets.rotation.targets.mysql.verifiers import NATIVE, SHA2, _sha256_crypt, matches, verifier

# As `openssl passwd -5` has it, for passwords around the length of a digest.
CRYPTS = (
    (b"Hello world!", b"saltstring", "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
    (b"x" * 1, b"saltsaltsaltsalt", "w6MMzL6uP1zC/zFPks1aojSlkIwXOntfy4rPxWhJHg2"),
    (b"x" * 31, b"saltsaltsaltsalt", "rXpRZ3zlH/66OxIQVWQ3YRhzRdaAsUZY.Hl.zIsNjT."),
    (b"x" * 32, b"saltsaltsaltsalt", "0EBeDZpR10RddX2gcBEYW4jH3R.LRZ3kPJmzEMcfoR1"),
    (b"x" * 33, b"saltsaltsaltsalt", "ON7/At903nNw2MWWbHNnZsEEjXbaw/9IB46Ysh2qXJ5"),
    (b"x" * 40, b"saltsaltsaltsalt", "a3t85ydO/DFvLGgLZgdODuDoPHFX8m1D4yyob8eV4L0"),
    (b"x" * 65, b"saltsaltsaltsalt", "PZxLxARGtls0fAs3JAlHxupQU5/gm5keHdEbWdiGhB3"),
)
# What a real MySQL 9.7.4 kept of the passwords: salts hold control characters and `$`, rounds are 5,000 and 10,000.
OF_A_SERVER = (
    (
        "first",
        "24412430304124257C251D530771272972600C581904293B252616675835426455506E7449326265"
        "5A5035776F5350456D4F7950387765766B536B766D3473554B49506B5834",
    ),
    (
        "SENTINELsecond",
        "24412430304124194864583E0C2F25507A52064101696641181C4E5867367A715061347236507846"
        "7868534B6E65334F3870516E2E4752626D544D6E413738617861532E412E",
    ),
    (
        "second",
        "244124303035244142434445464748494A4B4C4D4E4F5051525354444F753177746D716C6F706F42"
        "66387774517843676E6F4C7046653470694E63666742576D74716543392F",
    ),
)


@pytest.mark.parametrize(("password", "salt", "digest"), CRYPTS)
def test_the_digest_is_that_of_the_specification(password: bytes, salt: bytes, digest: str) -> None:
    """SHA-256 crypt of 5,000 rounds gives what others compute."""
    assert _sha256_crypt(password, salt, 5000) == digest


@pytest.mark.parametrize(("password", "stored"), OF_A_SERVER)
def test_what_a_server_keeps_is_recognised(password: str, stored: str) -> None:
    """The verifiers of a real server match their passwords, and no others."""
    assert matches(bytes.fromhex(stored), password.encode())
    assert not matches(bytes.fromhex(stored), password.encode() + b"x")


@pytest.mark.parametrize("plugin", [NATIVE, SHA2])
def test_a_new_verifier_matches_its_password(plugin: str) -> None:
    """Of either plugin; nothing matches where no password is kept."""
    for password in (b"", b"x" * 40, "wörd".encode()):
        assert matches(verifier(plugin, password).encode(), password)
        assert not matches(verifier(plugin, password).encode(), password + b"x")
        assert not matches(b"", password)


def test_native_verifiers_are_those_of_the_documentation() -> None:
    """MySQL's manual, PASSWORD('mypass')."""
    assert verifier(NATIVE, b"mypass") == "*6C8989366EAF75BB670AD8EA7A7FC1176A95CEF4"

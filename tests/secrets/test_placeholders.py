"""Placeholders and braces in the arguments of programs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.secrets.placeholders import filled, names

VALUES = {"item": "I", "old": "{item}", "new": "{{item}}"}


@pytest.mark.parametrize(
    ("word", "expected", "asked"),
    [
        ("{item}", "I", {"item"}),
        ("a{item}b{old}", "aIb{item}", {"item", "old"}),
        ("{new}{item}", "{{item}}I", {"new", "item"}),
        ("{unknown}", "{unknown}", {"unknown"}),
        ("{}", "{}", set()),
        ("{print $1}", "{print $1}", set()),
        ("{{print}}", "{print}", set()),
        ("{{print}} {item}", "{print} I", {"item"}),
        ("{{{item}}}", "{I}", {"item"}),
        ("{{{{.Name}}}}", "{{.Name}}", set()),
        ("{{a: {{b: 1}}}}", "{a: {b: 1}}", set()),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}', set()),
        ('{"a": {"b": "{item}"}}', '{"a": {"b": "I"}}', {"item"}),
        ("}}", "}}", set()),
        ("{{", "{", set()),
    ],
)
def test_what_an_argument_becomes(word: str, expected: str, asked: set[str]) -> None:
    """Placeholders are filled once; doubled braces are braces; an argument without `{{` keeps its own."""
    assert filled(word, VALUES) == expected
    assert names([word]) == asked


@given(st.text(alphabet="{}ab _\"'", max_size=20))
def test_any_text_can_be_written(text: str) -> None:
    """With all its braces doubled every text that has an opening one comes out as it was, whatever is known."""
    if "{" in text:
        doubled = text.replace("{", "{{").replace("}", "}}")
        assert filled(doubled, {"a": "x", "b": "x", "ab": "x"}) == text
        assert names([doubled]) == set()

"""Key files as numbered lines and parts, and back from what scanners and typists make of them."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import UsageError
from opskit.paper.page import Facts, as_text
from opskit.paper.reading import Read, read
from opskit.paper.sheet import divide, line_sum, plain, sheet_sum
from opskit.repository.recovery.keyfile import KeyFile, encode

BASE64 = string.ascii_letters + string.digits + "+/"


def armored(kind: str, body: Sequence[str]) -> bytes:
    lines = [f"-----BEGIN PGP {kind} KEY BLOCK-----", "", *body, "=OmUI", f"-----END PGP {kind} KEY BLOCK-----", ""]
    return "\n".join(lines).encode()


rows = st.lists(st.text(BASE64, min_size=1, max_size=64), min_size=1, max_size=90)
fingerprints = st.lists(st.text("0123456789ABCDEF", min_size=40, max_size=40), max_size=4)
key_files = st.builds(
    lambda repository, signers, secret, public: plain(
        encode(KeyFile(repository, "ab" * 32, signers, signers, armored("PRIVATE", secret), armored("PUBLIC", public)))
    ),
    st.text("0123456789abcdef", min_size=32, max_size=32),
    fingerprints,
    rows,
    rows,
)


def sample(lines: int = 40, seed: int = 1) -> str:
    drawn = random.Random(seed)
    body = ["".join(drawn.choices(BASE64, k=64)) for _ in range(lines)]
    return plain(encode(KeyFile("5e" * 16, "ab" * 32, ["A1" * 20], ["A1" * 20], armored("PRIVATE", body), b"")))


def scans(text: str) -> list[str]:
    return [part.text() for part in divide(text)]


def put_together(texts: Sequence[str]) -> Read:
    return read((f"scan{number}", text) for number, text in enumerate(texts))


def typed_rows(text: str) -> list[str]:
    page = as_text(Facts(text, "00" * 32, [("F" * 40, "R")], None, None, [], True, "2026-11-22"))
    return page[page.index("   1 ") :].splitlines()


MANGLED = {
    "as it is": lambda text: text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "trimmed": lambda text: text.strip(),
    "one row": lambda text: " ".join(text.split()),
    "empty lines gone": lambda text: "\n".join(line for line in text.split("\n") if line),
    "doubled line ends": lambda text: text.replace("\n", "\n\n"),
    "indented, hard blanks": lambda text: "\ufeff" + "".join(f"\u00a0 {line} \n" for line in text.split("\n")),
}


@given(text=key_files, how=st.lists(st.sampled_from(sorted(MANGLED)), min_size=40, max_size=40), order=st.randoms())
def test_any_key_file_comes_back_from_its_codes(text: str, how: list[str], order: random.Random) -> None:
    """In any order, some twice, each with its blanks and line ends changed in another way."""
    texts = [MANGLED[how[number % 40]](each) for number, each in enumerate(scans(text))]
    texts += order.choices(texts, k=2)
    order.shuffle(texts)
    assert put_together(texts).text == text
    assert put_together(["\n".join(texts)]).text == text


@given(text=st.text(string.printable, max_size=3000).filter(lambda text: text.strip()))
def test_any_text_that_can_be_printed_comes_back(text: str) -> None:
    """Not only what opskit wrote: whatever `plain` lets through is the same after the codes."""
    try:
        printed = plain(text.encode())
    except UsageError:
        return
    if printed:
        assert put_together(scans(printed)).text == printed


@given(text=key_files)
def test_any_key_file_comes_back_from_typed_lines(text: str) -> None:
    """The plain text page, typed as it stands, is read back, its broken lines put together."""
    assert put_together(["\n".join(typed_rows(text))]).text == text


@given(text=key_files)
def test_parts_are_whole_lines_that_trimming_does_not_harm(text: str) -> None:
    """Parts follow one another without a gap, and none begins or ends with an empty line."""
    parts = divide(text)
    assert [line for part in parts for line in part.lines] == text.splitlines()
    assert all(part.lines[0] and part.lines[-1] for part in parts)
    assert [part.first for part in parts[1:]] == [part.last + 1 for part in parts[:-1]]


def test_without_opskit_the_codes_give_the_file() -> None:
    """Texts one below the other, without the lines that begin with `opskit-paper`, are the file."""
    text = sample()
    by_hand = "".join(scans(text)).splitlines(keepends=True)
    assert "".join(line for line in by_hand if not line.startswith("opskit-paper")) == text


def test_missing_codes_are_named() -> None:
    """Which codes are missing, of how many, and which lines would make up for them."""
    text = sample()
    parts = divide(text)
    found = put_together([part.text() for part in parts if part.number not in (2, 4)])
    assert found.text is None
    span = f"{parts[1].first} to {parts[1].last}, {parts[3].first} to {parts[3].last}"
    assert found.problems == [
        f"codes 2 and 4 of {len(parts)} are missing (typing lines {span} of the paper does instead)"
    ]


def test_typed_lines_make_up_for_a_code() -> None:
    """A code that cannot be read is replaced by typing its lines, even the last one of all."""
    text = sample()
    parts = divide(text)
    rows = typed_rows(text)
    for lost in parts:
        wanted = range(lost.first, lost.last + 1)
        typed = [f"{number} {line_sum(number, text.splitlines()[number - 1])} {text.splitlines()[number - 1]}"
                 for number in wanted]  # fmt: skip
        texts = [part.text() for part in parts if part is not lost]
        assert put_together([*texts, "\n".join([*typed, rows[-1]])]).text == text


def test_lines_typed_from_another_paper_give_no_key() -> None:
    """Each line fits its own check sum, and the sum of the whole tells that they do not belong together."""
    text, other = sample(), sample(seed=2)
    lost = divide(text)[1]
    stray = [row for row in typed_rows(other) if row[:4].strip().isdigit()]
    typed = [row for row in stray if lost.first <= int(row[:4]) <= lost.last]
    found = put_together([*[each for each in scans(text) if each != lost.text()], "\n".join(typed)])
    assert found.text is None
    assert [problem.split(",")[0] for problem in found.problems] == ["everything is there"]


def test_codes_of_another_key_are_told_and_left_aside() -> None:
    """A stray scan of another paper does no harm, and is named."""
    text, other = sample(), sample(seed=2)
    found = put_together([*scans(text), scans(other)[0]])
    assert found.text == text
    (note,) = found.notes
    assert sheet_sum(other) in note and "another key" in note and f"scan{len(scans(text))} code 1" in note


def test_a_changed_code_is_named() -> None:
    """A character that an app changed shows in that code's own check sum."""
    texts = scans(sample())
    at = texts[1].index("\n") + 20
    texts[1] = texts[1][:at] + ("A" if texts[1][at] != "A" else "B") + texts[1][at + 1 :]
    found = put_together(texts)
    assert found.text is None
    assert found.problems == [f"scan1: code 2 of {len(texts)} was changed after it was scanned"]


def test_a_wrong_line_is_named_and_not_shown() -> None:
    """Of typed lines the wrong one is told by number; what it says is not."""
    rows = typed_rows(sample())
    number = next(at for at, row in enumerate(rows) if row.startswith("  12 "))
    secret = rows[number].split()[2]
    rows[number] = rows[number].replace(secret, secret[:-1] + ("A" if secret[-1] != "A" else "B"))
    found = put_together(["\n".join(rows)])
    assert found.text is None
    assert found.problems == ["scan0: line 12 is wrong, or its check sum is: compare it with the paper"]
    assert secret[:10] not in str(found.problems)


def test_missing_and_swapped_lines_are_named() -> None:
    """A line left out, two whose numbers were swapped, and a missing end are each told."""
    rows = typed_rows(sample())
    left_out = [row for row in rows if not row.startswith("  15 ")]
    assert put_together(["\n".join(left_out)]).problems == ["line 15 is missing"]
    assert put_together(["\n".join(left_out[:-1])]).problems[-1] == (
        "the last line, which begins with 'end', is missing"
    )
    swapped = [row.replace("  16 ", "  1X ").replace("  17 ", "  16 ").replace("  1X ", "  17 ") for row in rows]
    assert [problem.split()[2] for problem in put_together(["\n".join(swapped)]).problems] == ["16", "17"]


@pytest.mark.parametrize(
    "odd",
    [
        "opskit-paper 9/1 deadbeef 99-1 abcd\nx",
        "opskit-paper 0/0 deadbeef 0-0 abcd",
        "",
        "\x00\xff",
        "1 abcd x\n" * 9999,
    ],
)
def test_what_no_page_ever_said_gives_no_key(odd: str) -> None:
    """Heads that make no sense and endless rows are told as what they are, at once, and harm no good scan."""
    assert put_together([odd]).text is None and put_together([odd]).problems
    assert put_together([*scans(sample()), odd]).text == sample()


def test_many_missing_lines_are_told_in_short() -> None:
    """Spans, not every number."""
    assert put_together(["end 900 deadbeef"]).problems == ["lines 1 to 900 are missing"]


def test_a_text_without_sums_is_not_called_proven() -> None:
    """A key file typed without its check sums may be right; only gpg can tell."""
    found = put_together([sample()])
    assert found.text == sample() and not found.is_proven
    assert put_together(["hello"]).problems and put_together(["hello"]).text is None


@pytest.mark.parametrize("data", ["é".encode(), b"x" * 2300, b"a\x1b[31mb"])
def test_what_no_paper_can_carry_is_refused(data: bytes) -> None:
    """Characters beside ASCII, control characters and endless lines are told before anything is printed."""
    with pytest.raises(UsageError):
        plain(data)

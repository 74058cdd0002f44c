"""The page that is printed: HTML that needs nothing else, or plain text for a line printer.

Invariants: it loads nothing and runs nothing; everything from outside is escaped. It fits A4 and Letter, in black and
white; no code and no line is divided between pages. It says all it takes to get the backups back, without opskit too.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from opskit.paper.codes import drawing
from opskit.paper.sheet import Part, divide, line_sum, sheet_sum

_WIDTH = 78
"""Columns of plain text."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says about the key. `keys` are (fingerprint, user id) of the private ones, `printed` is a date.

    `sha256` is of the whole text. `is_protected`: whether the key needs its passphrase, too.
    """

    text: str
    sha256: str
    keys: Sequence[tuple[str, str]]
    repository: str | None
    recover_sha256: str | None
    signers: Sequence[str]
    is_protected: bool
    printed: str

    @property
    def sheet(self) -> str:
        """Which sheet this is: what each of its codes says, too."""
        return sheet_sum(self.text)


def _table(facts: Facts) -> Iterator[tuple[str, str]]:
    for fingerprint, user_id in facts.keys:
        yield "Key", f"{user_id}\n{grouped(fingerprint)}"
    yield "Repository", facts.repository or "not known: this is a bare key"
    yield (
        "Passphrase",
        "the key is of no use without it; it is not on this paper, and must be kept elsewhere"
        if facts.is_protected
        else "none: whoever has this paper can read the backups",
    )
    if facts.signers:
        yield "Signed by", "\n".join(grouped(each) for each in facts.signers)
    yield "recover.py", facts.recover_sha256 or "not known"
    yield "This file", facts.sha256


def grouped(fingerprint: str) -> str:
    """A fingerprint in groups of four, as people compare it."""
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))


def _steps(facts: Facts) -> list[str]:
    """How to restore, in five lines."""
    recover = facts.recover_sha256
    return [
        "Get the file recovery-key.asc back from this paper, as below.",
        "Take any one copy of the backups (disk, stick, download of the bucket) and go into its folder.",
        f"sha256sum recover.py must print {recover}. If it does not, do not run it."
        if recover
        else "Compare the SHA-256 of recover.py with one that you trust before you run it.",
        "python3 recover.py --list --key recovery-key.asc shows what is there. RECOVER.md, beside it, says more.",
        "python3 recover.py --key recovery-key.asc --target NEWFOLDER restores it. It needs Python 3, gpg and zstd.",
    ]


def _ways(facts: Facts, count: int) -> list[str]:
    """How the file comes back from the paper."""
    return [
        f"With opskit: scan the {count} codes with a phone, in any order, into text files; or scan the pages as "
        "pictures. Then: opskit keys paper --read FILES… --output recovery-key.asc",
        "Without opskit: put the texts of the codes one below the other, in their order, and delete the lines that "
        "begin with “opskit-paper”. Nothing else may change.",
        "A code that cannot be read: type its lines from the list instead, each with number and check sum, by which "
        "opskit names a wrong line. Without opskit leave number and check sum out.",
        f"sha256sum recovery-key.asc must print {facts.sha256}. gpg --import takes the file as it is.",
    ]


def as_html(facts: Facts) -> str:
    """The page for a browser's print command."""
    parts = divide(facts.text)
    rows = "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value).replace(chr(10), '<br>')}</td></tr>"
        for name, value in _table(facts)
    )
    body = f"""
<header><h1>opskit recovery key</h1>
<p class="warning">This paper opens backups{"" if not facts.is_protected else ", together with its passphrase"}.
Keep it as you would keep the key of a safe, away from the machine that is backed up. Leave no copy of it in the
printer, the browser or a folder.</p></header>
<table>{rows}</table>
<h2>To restore</h2>
<ol>{"".join(f"<li>{_marked(step)}</li>" for step in _steps(facts))}</ol>
<h2>To get the file back from this paper</h2>
<ul>{"".join(f"<li>{_marked(way)}</li>" for way in _ways(facts, len(parts)))}</ul>
<div class="signed"><p>Printed {escape(facts.printed)}</p><p>Checked, date</p><p>Signature</p></div>
<section class="codes"><h2>Codes <small>of paper {facts.sheet}</small></h2>
{"".join(_figure(part) for part in parts)}</section>
<section class="lines"><h2>Lines <small>of paper {facts.sheet}: number, check sum, text</small></h2>
<table class="text">{"".join(_html_rows(facts))}</table></section>
"""
    return _PAGE.replace("BODY", body.strip())


def _marked(text: str) -> str:
    """Text with the commands and sums in it set as code."""
    marked = re.sub("([0-9a-f]{64})([.]?)", r"<code>\1</code>\2", escape(text))
    for word in (
        "opskit keys paper --read FILES… --output recovery-key.asc",
        "python3 recover.py --list --key recovery-key.asc",
        "python3 recover.py --key recovery-key.asc --target NEWFOLDER",
        "sha256sum recover.py",
        "sha256sum recovery-key.asc",
        "gpg --import",
    ):
        marked = marked.replace(word, f"<code>{word}</code>")
    return marked


def _figure(part: Part) -> str:
    caption = f"{part.number} of {part.count} · lines {part.first} to {part.last} · paper {part.sheet}"
    return f"<figure>{drawing(part)}<figcaption>{caption}</figcaption></figure>\n"


def _html_rows(facts: Facts) -> Iterator[str]:
    lines = facts.text.splitlines()
    for number, line in enumerate(lines, 1):
        yield f"<tr><td>{number}</td><td>{line_sum(number, line)}</td><td>{escape(line)}</td></tr>\n"
    yield f"<tr><td>end</td><td>{len(lines)}</td><td>{facts.sheet}</td></tr>\n"


def as_text(facts: Facts) -> str:
    """The same without codes, 78 columns wide."""
    rows = ["OPSKIT RECOVERY KEY", "", "This paper opens backups. Keep it as you would keep the key of a safe.", ""]
    for name, value in _table(facts):
        for number, each in enumerate(value.split("\n")):
            rows += _wrapped(each, f"{'' if number else name:<12}", _WIDTH)
    rows += ["", "TO RESTORE", ""]
    for number, step in enumerate(_steps(facts), 1):
        rows += _wrapped(step, f"{number}. ", _WIDTH)
    rows += ["", "TO GET THE FILE BACK FROM THIS PAPER", ""]
    rows += _wrapped(
        "Type the lines below into a file as they stand, with number and check sum; a line that goes on in the next "
        "row is one line. Then: opskit keys paper --read FILE --output recovery-key.asc names the wrong ones. Without "
        "opskit leave number and check sum out.",
        "",
        _WIDTH,
    )
    rows += _wrapped(f"sha256sum recovery-key.asc must print {facts.sha256}.", "", _WIDTH)
    rows += ["", f"Printed {facts.printed}", "", f"Checked, date {'_' * 22}  Signature {'_' * 22}"]
    rows += ["", f"LINES of paper {facts.sheet}: number, check sum, text", ""]
    lines = facts.text.splitlines()
    for number, line in enumerate(lines, 1):
        before = f"{number:>4} {line_sum(number, line)} "
        rows += _wrapped(line, before, _WIDTH) or [before.rstrip()]
    rows.append(f" end {len(lines)} {facts.sheet}")
    return "\n".join(rows) + "\n"


def _wrapped(text: str, before: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=before, subsequent_indent=" " * len(before), break_on_hyphens=False
    )


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="robots" content="noindex">
<title>opskit recovery key</title>
<style>
@page { margin: 14mm 15mm }
body { font: 10.5pt/1.35 sans-serif; color: #000; background: #fff; width: 180mm; margin: 8mm auto }
h1 { font-size: 20pt; margin: 0 } h2 { font-size: 12pt; margin: 5mm 0 1.5mm; break-after: avoid }
small { font-weight: 400; font-size: 10pt }
.warning { border: 1.2pt solid #000; padding: 2mm 3mm; margin: 3mm 0 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .8mm 3mm .8mm 0; border-bottom: .4pt solid #999;
  overflow-wrap: anywhere }
th { font-weight: 400; width: 24mm } td, code { font-family: monospace; font-size: 9.5pt }
ol, ul { margin: 0; padding-left: 6mm } li { margin: 0 0 .8mm; break-inside: avoid; overflow-wrap: anywhere }
.signed { display: flex; gap: 8mm; margin-top: 12mm; break-inside: avoid }
.signed p { flex: 1; border-top: .6pt solid #000; margin: 0; padding-top: 1mm; font-size: 9.5pt }
.codes, .lines { break-before: page }
.codes h2, .lines h2 { margin-top: 0 }
figure { display: inline-block; width: 86mm; margin: 0 4mm 4mm 0; break-inside: avoid; vertical-align: top }
figure:nth-of-type(even) { margin-right: 0 }
figcaption { text-align: center; font-size: 10pt }
.code { display: block; width: 86mm; height: 86mm }
.text td { border: 0; padding: 0 3mm 0 0; font-size: 10.5pt; line-height: 1.3; font-variant-ligatures: none }
.text td:nth-child(1) { text-align: right; width: 9mm; color: #333 } .text td:nth-child(2) { width: 13mm; color: #333 }
.text tr:nth-child(5n) td { padding-bottom: 1.6mm } .text tr { break-inside: avoid }
@media print { body { margin: 0; width: auto } }
</style></head><body>
BODY
</body></html>
"""

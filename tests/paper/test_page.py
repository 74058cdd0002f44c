"""The page as a browser prints it: looked at by Chromium, its codes read by zxing-cpp, its key used for a restore."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from opskit.paper.page import Facts, as_html
from opskit.paper.reading import read
from opskit.paper.sheet import divide
from tests.cli.hosts import Machine, run
from tests.paper.test_sheet import sample

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browser(*arguments: str, page: Path, folder: Path) -> None:
    """Run Chromium without a window on a page; skips by name where it is absent."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'chrome'}"]
    subprocess.run([CHROMIUM, *fixed, *arguments, page.as_uri()], check=True, capture_output=True, timeout=90)


def codes_in(picture: Path) -> list[str]:
    """The texts of all QR codes in a picture; skips by name where the extra is absent."""
    pytest.importorskip("zxingcpp", reason="the extra `scan` is not installed")
    pytest.importorskip("PIL", reason="the extra `scan` is not installed")
    from opskit.paper.codes import texts_in

    return texts_in(picture, picture.read_bytes())


def facts(text: str, user_id: str = "R <r@example.org>") -> Facts:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Facts(text, digest, [("F" * 40, user_id)], "5e" * 16, "ab" * 32, ["A1" * 20], True, "2026-11-22")


def test_the_page_runs_and_loads_nothing() -> None:
    """A user id made of markup stays text; there is no address in the page and no script."""
    page = as_html(facts(sample(), user_id="<script src=//evil>&</script>"))
    assert "<script" not in page and "&lt;script" in page
    assert not re.search(r"(src|href)\s*=\s*[\"']", page) and "default-src 'none'" in page
    assert len(re.findall("<svg", page)) == len(divide(sample()))


@pytest.mark.parametrize("lines", [12, 150], ids=["ed25519", "rsa-4096"])
def test_every_code_can_be_read_from_a_picture_of_the_page(tmp_path: Path, lines: int) -> None:
    """What Chromium shows holds every code, readable, and together they give the file."""
    text, page, picture = sample(lines), tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(as_html(facts(text)))
    height = 1800 + 400 * len(divide(text)) // 2 + 25 * lines
    browser(f"--window-size=760,{height}", "--force-device-scale-factor=2", f"--screenshot={picture}",
            page=page, folder=tmp_path)  # fmt: skip
    texts = codes_in(picture)
    assert len(texts) == len(divide(text))
    assert read([("page.png", each) for each in texts]).text == text


def test_it_prints_on_three_pages(tmp_path: Path) -> None:
    """A usual key takes a page of words, one of codes and one of lines."""
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(as_html(facts(sample(25))))
    browser("--no-pdf-header-footer", f"--print-to-pdf={printed}", page=page, folder=tmp_path)
    assert len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes())) == 3


def test_from_the_picture_of_a_paper_to_the_restored_files(used: Machine, tmp_path: Path) -> None:
    """Printed, looked at by a browser, read back, and a backup restored by the key so won."""
    page, picture, key = tmp_path / "page.html", tmp_path / "page.png", tmp_path / "back.asc"
    assert run("keys", "paper", "--key", used.key, "--output", page).code == 0
    browser("--window-size=760,4200", "--force-device-scale-factor=2", f"--screenshot={picture}",
            page=page, folder=tmp_path)  # fmt: skip
    codes_in(picture)
    answer = run("keys", "paper", "--read", picture, "--output", key)
    assert answer.code == 0, answer.err
    assert key.read_bytes() == used.key.read_bytes()
    target = tmp_path / "target"
    assert run("restore", "latest", "--repository", used.a, "--key", key, "--target", target).code == 0
    assert (target / str(used.source).lstrip("/") / "later").exists() or list(target.rglob("later"))

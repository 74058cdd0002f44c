"""QR codes: drawn by segno as SVG, and found in pictures by zxing-cpp where the extra `scan` is installed."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from opskit.errors import UsageError
from opskit.paper.sheet import Part

QUIET_ZONE = 4
"""Modules of white around a code, which ISO/IEC 18004 asks for."""
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""How files of PNG and JPEG begin."""
LARGEST_PICTURE = 200_000_000
"""Pixels: a sheet of A3 at 1,200 dpi has more, and no code on paper needs that."""


def drawing(part: Part) -> str:
    """A part as SVG in HTML, as wide as its surroundings; error correction M: a seventh of it may be unreadable."""
    import segno

    code = segno.make_qr(part.text(), error="m", mode="byte", boost_error=False)
    label = f"QR code {part.number} of {part.count}"
    return code.svg_inline(border=QUIET_ZONE, omitsize=True, svgclass="code", lineclass=None, title=label)


def is_picture(data: bytes) -> bool:
    """Whether a file is of a kind that `texts_in` reads."""
    return data.startswith(PICTURES)


def texts_in(path: Path, data: bytes) -> list[str]:
    """The text of every QR code in a picture; raises UsageError where it cannot be read, or the extra is absent."""
    try:
        import zxingcpp
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise UsageError(
            f"{path} is a picture, and what reads codes in pictures is not installed",
            hint="pip install 'opskit[scan]'; or scan the codes with a phone, and give the texts",
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                if picture.width * picture.height > LARGEST_PICTURE:
                    raise UsageError(f"{path} has {picture.width} × {picture.height} pixels: scan it with 600 dpi")
                grey = picture.convert("L")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as a picture", hint="scan the page again, as PNG or JPEG") from error
    wanted = zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode)
    return [str(found.text) for found in zxingcpp.read_barcodes(grey, formats=wanted)]

"""Files that a test writes, and contents that no reader should trust."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = "9" * 5_000
HALF = "\\ud83d"  # of a surrogate pair, as JSON writes it
LONG = "x" * 5_000


def png() -> bytes:
    """A small picture."""
    out = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(out, "PNG")
    return out.getvalue()


def write(path: Path, content: Any) -> Path:
    """Writes bytes or a text as they are, and anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path

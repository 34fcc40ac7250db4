"""Pictures: those that cannot be read, those that show nothing, and those that stand there twice.

Near-duplicates are found by perceptual hashes (`imagehash.phash`, 64 bits of a cosine transform of
the grey picture), all pairs compared, and confirmed by small thumbnails in colour: a hash alone
takes a red square for a blue one.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8, UInt64

from mmjax.encoders.pictures import open_image
from mmjax.errors import MmjaxError
from mmjax.inspection.findings import Finding, Level
from mmjax.inspection.reading import DataRow
from mmjax.progress import track

NEAR_BITS = 6  # of 64 that two hashes of one picture may differ in
NEAR_COLOUR = 6.0  # of 255, the mean difference of their thumbnails
SIDE = 16  # pixels of a thumbnail
SMALL, LONG = 32, 5  # pixels of a side; how much longer a picture may be than wide
_BLOCK = 1024  # hashes that are compared with all others at a time


@dataclass(frozen=True)
class ReadableImages:
    """Pictures that can be read.

    Attributes:
      numbers: of their rows.
      exact: one digest each, of the pixels.
      hashes: perceptual.
      thumbnails: in colour.
      sizes: (width, height) of each.
    """

    numbers: Int[np.ndarray, " n"]
    exact: tuple[bytes, ...]
    hashes: UInt64[np.ndarray, " n"]
    thumbnails: UInt8[np.ndarray, "n s s 3"]
    sizes: tuple[tuple[int, int], ...]


def look_at(rows: Sequence[DataRow]) -> tuple[ReadableImages, list[Finding]]:
    """Opens every picture.

    Args:
      rows: of the data.

    Returns:
      (pictures, what is wrong with single ones).

    Raises:
      MmjaxError: imagehash is missing.
    """
    try:
        import imagehash
    except ImportError as error:
        raise MmjaxError(
            "looking data over needs ImageHash and others: python -m pip install 'mmjax[check]'"
        ) from error
    broken: dict[str, list[int | str]] = {}
    odd: dict[str, list[int | str]] = {"blank": [], "small": [], "long": []}
    numbers, exact, hashes, thumbnails, sizes = [], [], [], [], []
    with_pictures = [i for i, row in enumerate(rows) if row.image is not None]
    for i in track(with_pictures, "opening pictures"):
        row = rows[i]
        try:
            picture = open_image(str(row.image))
        except MmjaxError as error:
            why = str(error).partition(") ")[2] or str(error)
            broken.setdefault(why, []).append(row.place)
            continue
        numbers.append(i)
        exact.append(hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest())
        bits = np.packbits(imagehash.phash(picture).hash.reshape(-1))
        hashes.append(int.from_bytes(bits.tobytes(), "big"))
        thumbnails.append(np.asarray(picture.resize((SIDE, SIDE))))
        sizes.append(picture.size)
        if len(picture.getcolors(1) or ()) == 1:
            odd["blank"].append(row.place)
        if min(picture.size) < SMALL:
            odd["small"].append(row.place)
        if max(picture.size) > LONG * min(picture.size):
            odd["long"].append(row.place)
    findings = [
        Finding("picture", "error", f"the picture cannot be read ({why})", tuple(places))
        for why, places in broken.items()
    ]
    lacking = tuple(row.place for row in rows if row.image is None)
    if lacking and with_pictures:
        findings.append(Finding("picture", "error", "no picture is named", lacking))
    sentences: tuple[tuple[str, Level, str], ...] = (
        ("blank", "warning", "the picture shows one colour and nothing else"),
        ("small", "note", f"the picture is smaller than {SMALL} pixels and will be enlarged"),
        ("long", "note", f"the picture is over {LONG} times as long as wide; its ends are cut off"),
    )
    for kind, level, text in sentences:
        if odd[kind]:
            findings.append(Finding(kind, level, text, tuple(odd[kind])))
    gallery = ReadableImages(
        np.asarray(numbers, np.int64),
        tuple(exact),
        np.asarray(hashes, np.uint64),
        np.asarray(thumbnails, np.uint8).reshape(-1, SIDE, SIDE, 3),
        tuple(sizes),
    )
    return gallery, findings


@dataclass(frozen=True)
class Doubles:
    """Rows that show the same.

    Attributes:
      exact: groups of rows with the same pixels.
      near: groups of rows that look the same, those of `exact` among them.
    """

    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]

    def group_of(self) -> dict[int, int]:
        """Row -> number of its group in `near`."""
        return {row: g for g, rows in enumerate(self.near) for row in rows}


def doubles_in(gallery: ReadableImages) -> Doubles:
    """Finds pictures that stand there more than once.

    Args:
      gallery: of `look_at`.

    Returns:
      Groups of two rows and more, in the rows' order.
    """
    numbers = [int(n) for n in gallery.numbers]
    same: dict[bytes, list[int]] = {}
    for number, digest in zip(numbers, gallery.exact, strict=True):
        same.setdefault(digest, []).append(number)
    exact = [rows for rows in same.values() if len(rows) > 1]
    pairs = [(rows[0], row) for rows in exact for row in rows[1:]]
    pairs += [(numbers[a], numbers[b]) for a, b in _near(gallery)]
    return Doubles(tuple(map(tuple, exact)), tuple(_groups(pairs)))


def _near(gallery: ReadableImages) -> Iterable[tuple[int, int]]:
    hashes, small = gallery.hashes, gallery.thumbnails.astype(np.int16)
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        bits = np.bitwise_count(block[:, None] ^ hashes[None, :])
        for a, b in np.argwhere(bits <= NEAR_BITS):
            first, second = start + int(a), int(b)
            if first < second and np.abs(small[first] - small[second]).mean() <= NEAR_COLOUR:
                yield first, second


def _groups(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """What is joined by pairs, directly or through others."""
    leader: dict[int, int] = {}

    def find(x: int) -> int:
        while leader.setdefault(x, x) != x:
            leader[x] = leader[leader[x]]
            x = leader[x]
        return x

    for a, b in pairs:
        first, second = sorted((find(a), find(b)))
        leader[second] = first
    members: dict[int, list[int]] = {}
    for x in sorted(leader):
        members.setdefault(find(x), []).append(x)
    return [tuple(rows) for rows in members.values()]


def about_doubles(doubles: Doubles, rows: Sequence[DataRow]) -> list[Finding]:
    """What to say of pictures that stand there more than once."""
    findings = []
    if doubles.exact:
        places = tuple(rows[i].place for group in doubles.exact for i in group[1:])
        text = "the very picture of an earlier row"
        findings.append(Finding("duplicate", "warning", text, places))
    exact = {i for group in doubles.exact for i in group[1:]}
    near = tuple(rows[i].place for g in doubles.near for i in g[1:] if i not in exact)
    if near:
        text = "nearly the picture of an earlier row"
        findings.append(Finding("near-duplicate", "warning", text, near))
    torn = [
        rows[group[0]].place
        for group in doubles.near
        if len({rows[i].label for i in group if rows[i].label}) > 1
    ]
    if torn:
        text = "one picture in two classes, of which one is wrong"
        findings.append(Finding("contradiction", "warning", text, tuple(torn)))
    return findings

"""Numbers that fit data: batch, steps, lengths, shots, and encoders that are at hand."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmjax import assets
from mmjax.inspection import texts
from mmjax.inspection.reading import DataRow

TEST, VAL = 0.2, 0.1
LARGEST_BATCH, SMALLEST_BATCH = 512, 4
_FEW = 100  # rows under which a fold says more than one split
_MANY = 5000  # rows from which one seed says enough
_TOKENS = (8, 512)  # least and most of a text encoder's max_length
_SMALL = 160  # pixels of the median picture up to which half of DINOv2's size sees all


@dataclass(frozen=True)
class Schedule:
    """A loop's numbers; names as of `TrainSpec`."""

    steps: int
    batch_size: int
    eval_every: int
    save_every: int
    log_every: int

    def settings(self) -> dict[str, int]:
        """As a recipe has them."""
        return dict(self.__dict__)


def schedule(examples: int, epochs: int, least: int = 100, most: int = 5000) -> Schedule:
    """A loop over so many training examples.

    Args:
      examples: that are trained on.
      epochs: how often each is wanted.
      least: steps.
      most: steps.

    Returns:
      Half of the examples a step, as a power of two: other examples are the negatives.
    """
    batch = SMALLEST_BATCH
    while batch * 2 <= min(LARGEST_BATCH, examples // 2):
        batch *= 2
    steps = max(least, min(most, round(epochs * examples / batch, -1)))
    steps = int(steps)
    return Schedule(
        steps, batch, max(1, steps // 6), max(1, steps // 5), max(1, min(20, steps // 30))
    )


def seeds_for(rows: int) -> tuple[int, ...]:
    """Three splits where one says little."""
    return (0, 1, 2) if rows < _MANY else (0,)


def folds_for(rows: int) -> int:
    """Folds in place of one split, where data is scarce."""
    return 5 if rows < _FEW * 5 else 0


def shots_for(train_rows: Counter[str]) -> int:
    """A power of two, 16 at most, that every class has."""
    least, shots = min(train_rows.values()), 1
    while shots * 2 <= min(16, least):
        shots *= 2
    return shots


def length_of(rows: Sequence[DataRow], columns: Sequence[str], source: str) -> tuple[int, str]:
    """The tokens to keep of a text.

    Args:
      rows: of the data.
      columns: of text that this encoder reads.
      source: the encoder.

    Returns:
      (max_length, which keeps 99 texts of 100 whole; how tokens were counted).
    """
    count, how = _tokens_of(source)
    lengths = sorted(n for column in columns for n in texts.lengths(rows, column, count))
    length = lengths[int(0.99 * (len(lengths) - 1))] if lengths else _TOKENS[0]
    return max(_TOKENS[0], min(_TOKENS[1], -(-length // 4) * 4)), how


def _tokens_of(source: str) -> tuple[Callable[[str], int], str]:
    """How an encoder counts tokens; an estimate where it is not on this machine."""
    folder: Path | None = Path(source)
    if source.startswith("asset:"):
        status = {e.asset.name: e for e in assets.list_assets()}.get(source.removeprefix("asset:"))
        folder = status.folder if status is not None and status.ready else None
    path = None if folder is None else folder / "tokenizer.json"
    if path is None or not path.is_file():
        return texts.estimate, "estimated"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text).ids), f"counted by {source}"


def image_size_for(pixels: tuple[int, int] | None, source: str) -> int | None:
    """The side of a picture for the encoders that mmjax brings; None leaves the encoder's own."""
    if pixels is None or source != "asset:dinov2-small":
        return None
    return 112 if max(pixels) <= _SMALL else 224


def memory() -> int:
    """Bytes of this machine's memory; 0 where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


@dataclass(frozen=True)
class Candidate:
    """An encoder that could be taken.

    Attributes:
      source: as a recipe names it.
      role: what it reads.
      megabytes: of its weights in float32, about.
      note: what it is for.
    """

    source: str
    role: str
    megabytes: int
    note: str


CANDIDATES = (
    Candidate("asset:dinov2-small", "image", 88, "pictures; comes with mmjax"),
    Candidate("hf:facebook/dinov2-base", "image", 346, "pictures, better; from the hub"),
    Candidate("hf:openai/clip-vit-base-patch32", "image and text", 605, "one space for English"),
    Candidate("hf:openai/clip-vit-large-patch14", "image and text", 1711, "the same, better"),
    Candidate("asset:minilm-l6", "text", 91, "English; comes with mmjax"),
    Candidate("asset:me5-small", "text, foreign", 471, "about a hundred languages; with mmjax"),
)
_ROOM = 4  # times its weights that an encoder takes while it computes


def fitting() -> list[tuple[Candidate, str]]:
    """(encoder, whether it is here and fits into this machine's memory), of all candidates."""
    ready = {f"asset:{e.asset.name}" for e in assets.list_assets() if e.ready}
    room, candidates = memory(), []
    for candidate in CANDIDATES:
        state = "here" if candidate.source in ready else "to be fetched"
        if room and candidate.megabytes * _ROOM * 1e6 > room:
            state = f"does not fit into {room / 1e9:.0f} GB of memory"
        candidates.append((candidate, state))
    return candidates

"""What recipes are made of: what the user wants, the rows that are read, numbers that fit."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmjax.inspection import sizes
from mmjax.inspection.look import Look
from mmjax.inspection.reading import DataRow

ENCODERS = {
    "image": "asset:dinov2-small",
    "text": "asset:minilm-l6",
    "foreign": "asset:me5-small",
}
LEAST = 12  # rows without which there is nothing to hold out


@dataclass(frozen=True)
class Wanted:
    """What the user asks for.

    Attributes:
      task: one of `kinds.TASKS`.
      name: of the recipe.
      languages: (added, known); either may be "" where the data tells.
      encoders: role -> source, instead of those that mmjax brings.
      base: run folder to stand on; "" for none.
      folder: where the recipe will lie; what it reads is named from where mmjax is started.
    """

    task: str
    name: str
    languages: tuple[str, str]
    encoders: Mapping[str, str] = field(default_factory=dict)
    base: str = ""
    folder: Path = Path()


@dataclass
class Draft:
    """What the tasks share while a recipe is made."""

    wanted: Wanted
    look: Look
    rows: list[DataRow]
    kept: list[int]
    languages: tuple[str, str]
    source: str
    notes: list[str]

    @property
    def train_rows(self) -> int:
        """How many rows are trained on."""
        by_side = Counter(row.side or "train" for row in self.rows)
        if by_side["test"]:
            val = 0 if by_side["val"] else round(by_side["train"] * sizes.VAL)
            return by_side["train"] - val
        return round(len(self.rows) * (1 - sizes.TEST - sizes.VAL))

    def columns(self, language: str) -> list[str]:
        """The columns that are read as a language."""
        columns = [c for c in self.look.data.columns if c == language]
        return columns or [c for c in self.look.data.columns if c == "caption"]

    def encoder(self, role: str, output: str, columns: Sequence[str] = ()) -> dict[str, Any]:
        """An encoder's settings."""
        source = self.wanted.encoders.get(role, ENCODERS[role])
        settings: dict[str, Any] = {"source": source, "output": output}
        if role == "image":
            size = sizes.image_size_for(self.look.pixels, source)
            return settings | ({} if size is None else {"image_size": size})
        if columns:
            settings["max_length"], how = sizes.length_of(self.rows, columns, source)
            self.notes.append(
                f"{role}: texts keep {settings['max_length']} tokens ({how}; 99 of 100 are whole)"
            )
        return settings

    def pairs(self) -> dict[str, Any]:
        """Where the pictures are, and how they are split."""
        settings = {"source": self.source, "styles": ("photo",), "exclude_labels": ()}
        return settings | {"test_fraction": sizes.TEST, "val_fraction": sizes.VAL}


def has_text(row: DataRow, column: str, known: str) -> bool:
    """Whether a row has a text in a language; `caption` stands for the known one."""
    texts = row.texts.get(column) or (row.texts.get("caption", ()) if column == known else ())
    return bool(texts) and all(text.strip() for text in texts)

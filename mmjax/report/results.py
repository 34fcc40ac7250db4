"""Figures of a finished recipe, as they are measured, kept and read again."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmjax.checks.foreign import parse_json
from mmjax.errors import MmjaxError
from mmjax.files import digest_of, write_json
from mmjax.report.classes import ClassFigures


def minus(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Differences seed by seed; nothing where the two have other numbers of seeds."""
    if len(mine) != len(theirs):
        return ()
    return tuple(a - b for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True)
class Results:
    """Figures of every system, one value a seed.

    Attributes:
      recipe: its name.
      systems: system -> metric -> values in the order of `seeds`.
      labels: system -> how a table calls it.
      seeds: as run.
      counts: {"train", "val", "test"} -> items, one number a seed.
      timings: phase -> seconds.
      peak_memory_bytes: of the process that measured.
      command: what the user typed.
      environment: versions and devices.
      shares: system -> share of the domain's training pairs that it read; for `domain` alone.
      probes: whether the metrics are those of probes; for `projection` alone.
      protocol: system -> shots and half of the classes that it read; for `prompts` alone.
      routing: [seed][layer][modality] weight of the first expert; for `instruct` with a router.
      classes: how each class fared, where items are told apart by class.
      learned: {"rows", "seen", "visits"} -> rows to learn from, how many of them were, and how
        often all together, one number a seed; for `instruct` alone.
    """

    recipe: str
    systems: Mapping[str, Mapping[str, Sequence[float]]]
    labels: Mapping[str, str]
    seeds: Sequence[int]
    counts: Mapping[str, Sequence[int]]
    timings: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    probes: bool = False
    protocol: Mapping[str, Mapping[str, int | str]] = field(default_factory=dict)
    routing: Sequence[Sequence[Sequence[float]]] = ()
    classes: ClassFigures | None = None
    learned: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes all figures as JSON, with their digest."""
        figures = dataclasses.asdict(self)
        write_json(path, {**figures, "digest": digest_of(figures)})

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads what `save` wrote.

        Raises:
          MmjaxError: the file is damaged.
        """
        try:
            figures = parse_json(path, path.read_bytes())
            digest = figures.pop("digest", None)  # earlier versions wrote none
            if digest not in (None, digest_of(figures)):
                raise MmjaxError("its figures are not those that were written")
            classes = figures.get("classes")
            class_figures = ClassFigures.of_json(classes) if classes else None
            return cls(**{**figures, "classes": class_figures})
        except (OSError, AttributeError, KeyError, TypeError, ValueError, MmjaxError) as error:
            raise MmjaxError(
                f"{path} is damaged ({error}); make it again with --mode evaluate"
            ) from error

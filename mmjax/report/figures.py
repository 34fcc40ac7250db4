"""Figures of finished runs as they are gathered, seed by seed."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mmjax.report.results import Results
from mmjax.runs.finished import DONE
from mmjax.specs.recipe import Recipe


def told_apart(labels: Mapping[str, str], columns: Mapping[str, object]) -> dict[str, str]:
    """Labels under which a table has a cell for every system.

    Args:
      labels: system -> what its row is called.
      columns: system -> where it stands in its row, e.g. how much it was trained on.

    Returns:
      The same; systems that would share a cell have their names behind their label.
    """
    shared = Counter((labels[name], str(column)) for name, column in columns.items())
    return {
        name: f"{label} ({name})"
        if name in columns and shared[label, str(columns[name])] > 1
        else label
        for name, label in labels.items()
    }


@dataclass(frozen=True)
class Figures:
    """What was measured so far.

    Attributes:
      systems: system -> metric -> values, one a seed.
      counts: what is counted -> numbers, one a seed.
      timings: phase -> seconds.
      learned: {"rows", "seen", "visits"} -> rows to learn from, how many of them were, and how
        often all of them together; one number a seed.
    """

    systems: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    learned: dict[str, list[int]] = field(default_factory=dict)

    def trained(self, stage: str, folder: Path) -> int:
        """Adds the time that a stage's run in this folder took to train; returns its steps."""
        done = json.loads((folder / DONE).read_text(encoding="utf-8"))
        name = f"training {stage}, all seeds"
        self.timings[name] = self.timings.get(name, 0.0) + done["seconds"]
        return done["steps"]

    def add(self, values: Mapping[str, Mapping[str, float]]) -> None:
        """Adds one seed's figures, system -> metric -> value."""
        for system, measured in values.items():
            for metric, number in measured.items():
                self.systems.setdefault(system, {}).setdefault(metric, []).append(number)

    def count(self, numbers: Mapping[str, int]) -> None:
        """Adds one seed's counts."""
        for what, number in numbers.items():
            self.counts.setdefault(what, []).append(number)

    def learn(self, visits: Int[np.ndarray, " n"]) -> None:
        """Adds how often one seed learned each of its rows."""
        counts = {"rows": len(visits), "seen": int((visits > 0).sum()), "visits": int(visits.sum())}
        for what, number in counts.items():
            self.learned.setdefault(what, []).append(number)

    def results(
        self,
        recipe: Recipe,
        systems: Mapping[str, Mapping[str, Sequence[float]]],
        labels: Mapping[str, str],
    ) -> Results:
        """All that was gathered.

        Args:
          recipe: its name and seeds.
          systems: those of these figures, in the order of the tables.
          labels: system -> how a table calls it; others are called by their name.

        Returns:
          The results; a task replaces what it alone knows.
        """
        called = {name: labels.get(name, name) for name in systems}
        seeds = list(recipe.seeds)
        return Results(recipe.name, systems, called, seeds, self.counts, self.timings)

    def ordered(self, first: Iterable[str]) -> dict[str, dict[str, list[float]]]:
        """The systems: those named first, then the others, `adapted` last."""
        leading = [name for name in first if name in self.systems]
        others = [name for name in self.systems if name not in (*leading, "adapted")]
        return {name: self.systems[name] for name in (*leading, *others, "adapted")}

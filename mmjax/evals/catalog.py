"""Evaluators that other packages bring; a task has its own at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmjax import plugins
from mmjax.evals.base import Evaluator, Functions

EVALUATORS = plugins.Catalog[Evaluator](plugins.EVALS, "an evaluator", Evaluator, {})
OTHERS = "others/"  # begins metrics that mmjax has no column for


@dataclass(frozen=True)
class Other:
    """An evaluator of another package, whose metrics bear its name.

    Attributes:
      name: its last part, as a table shows it.
      evaluator: as it was found.
    """

    name: str
    evaluator: Evaluator

    def run(self, functions: Functions, data: Any) -> dict[str, float]:
        """Returns {`others/NAME/metric`: value}."""
        metrics = self.evaluator.run(functions, data)
        return {f"{OTHERS}{self.name}/{metric}": float(value) for metric, value in metrics.items()}


def others(names: Sequence[str], known: Sequence[str]) -> list[Evaluator]:
    """The evaluators of other packages among those that a recipe names.

    Args:
      names: `config.evals`.
      known: those of them that the task measures by itself.

    Raises:
      MmjaxError: there is none of a name, or it is no evaluator.
    """
    return [
        Other(name.rpartition(":")[2], EVALUATORS.find(name, "evals"))
        for name in names
        if name not in known
    ]

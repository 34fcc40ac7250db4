"""Training from Python: what `python -m mmjax.main` does, as a function."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmjax import assets, study
from mmjax.commands import recipes
from mmjax.predict import AnyAdapted, load_adapter
from mmjax.processes import starting
from mmjax.report.page import Table
from mmjax.report.results import Results
from mmjax.runs import run_folder
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import Recipe, resolve_recipe
from mmjax.tasks.catalog import definition_of


def train(
    recipe: str | Mapping[str, Any] | ConfigDict,
    workdir: str | Path | None = None,
    **overrides: Any,
) -> "Study":
    """Trains a recipe, or goes on where it was stopped, measures it and writes the report.

    The same engine as the command's, with the same run folder: what one began the other ends.

    Args:
      recipe: a file, or the name of a recipe that mmjax brings, perhaps with `:SIZE` behind it; or
        its settings.
      workdir: the run folder; runs/NAME where it is not given.
      **overrides: dotted settings to replace, `**{"optim.lr": 3e-4}`.

    Returns:
      The finished study.

    Raises:
      MmjaxError: whatever the command refuses.
      TypeError: a `Recipe`, which no longer knows the settings that a run folder keeps.
    """
    if isinstance(recipe, Recipe):
        raise TypeError(
            "give the recipe's settings, not the Recipe made of them: a run folder keeps settings"
        )
    config = as_dict(recipes.load_recipe(recipe, overrides))
    made = resolve_recipe(config)
    folder = Path(workdir or f"runs/{made.name}")
    starting.set_up(0, None, assets.cache_dir() / "compiled")
    study.run(made, config, folder, f"mmjax.train({made.name!r}, {str(folder)!r})")
    return Study(made, folder)


def open_study(workdir: str | Path) -> "Study":
    """A finished study by its run folder.

    Raises:
      MmjaxError: the folder holds no run.
    """
    folder = Path(workdir)
    return Study(resolve_recipe(as_dict(run_folder.get_config(str(folder)))), folder)


@dataclass(frozen=True)
class Study:
    """A recipe that was trained and measured.

    Attributes:
      recipe: what was asked for.
      workdir: where everything lies.
    """

    recipe: Recipe
    workdir: Path

    @property
    def results(self) -> Results:
        """Figures of every system, one value a seed.

        Raises:
          MmjaxError: nothing is measured yet, or the file is damaged.
        """
        return Results.load(self.workdir / study.RESULTS)

    @property
    def tables(self) -> list[Table]:
        """The tables of the report as plain data."""
        return definition_of(self.recipe.main.task).tables(self.results)

    def adapter(self, seed: int | None = None) -> AnyAdapted:
        """The trained adapter in its frozen encoders; see `mmjax.load_adapter`.

        Args:
          seed: None takes the one with the best validation.
        """
        return load_adapter(self.workdir, seed)

    @property
    def report(self) -> Path:
        """The report, a page for any browser."""
        return (self.workdir / study.REPORTS[0]).resolve()

    def to_pandas(self) -> Any:
        """One row a system, metric and seed; needs pandas.

        Raises:
          ModuleNotFoundError: pandas is not installed.
        """
        pandas = importlib.import_module("pandas")
        results = self.results
        rows = [
            {"system": system, "metric": metric, "seed": seed, "value": value}
            for system, metrics in results.systems.items()
            for metric, values in metrics.items()
            for seed, value in zip(results.seeds, values, strict=False)
        ]
        return pandas.DataFrame(rows)

    def _headline(self) -> list[tuple[str, str]]:
        return definition_of(self.recipe.main.task).headline(self.results)

    def __repr__(self) -> str:
        """The recipe, where it lies, and its first figures."""
        lines = [f"Study({self.recipe.name!r} in {str(self.workdir)!r})"]
        return "\n".join(lines + [f"  {name}: {value}" for name, value in self._headline()])

    def _repr_html_(self) -> str:
        """The same for a notebook, with a link to the report."""
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td><b>{escape(value)}</b></td></tr>"
            for name, value in self._headline()
        )
        link = f'<a href="{escape(self.report.as_uri())}">report</a>'
        return f"<p><b>{escape(self.recipe.name)}</b> · {link}</p><table>{rows}</table>"

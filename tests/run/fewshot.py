"""A few-shot run's figures, found again by whoever loads what it trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mmjax
from mmjax import study
from mmjax.data.library import Library
from mmjax.report.results import Results
from mmjax.sharding import make_mesh
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.catalog import assemble


def measured_again(config: dict[str, Any], workdir: Path) -> Iterator[tuple[str, Any, float]]:
    """Classifies the test pictures with every stage's adapter as it is loaded.

    Yields:
      (stage, what it read of the test side, the reported share of right answers less the found).
    """
    recipe, library = resolve_recipe(config), Library(make_mesh(), ("en", "en"))
    results = Results.load(workdir / "results.json").systems
    for run in study.plan(recipe, workdir):
        data: Any = assemble(run, library).data
        shown = data.test["adapted"].data
        items = data.corpus.at(shown.images.rows)
        classifier = mmjax.load_adapter(run.adapter.parent, kind=mmjax.Classifier)
        said = classifier.classify([item.picture("photo") for item in items])
        right = [row[0][0] == item.label for row, item in zip(said, items, strict=True)]
        system = "adapted" if run.stage.name == "prompts" else run.stage.name
        yield run.stage.name, shown, results[system]["accuracy"][0] - float(np.mean(right))

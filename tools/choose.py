"""Chooses a recipe's settings on its development pool alone, with as many tries for every method.

    python -m tools.choose --config configs/chain_emoji.py --workdir runs/choose
    python -m tools.choose --config configs/chain_emoji.py --tries 12 --seeds 0 1 --only coop

The recipe's file says what may be chosen: `METHODS`, name -> changes of the recipe, and `SEARCH`,
name -> space, dotted setting -> what to draw from: a tuple of choices, or dict(log=(low, high)),
dict(uniform=(low, high)). Every method has the same number of tries, of which the first is the
recipe as it stands. Nothing outside the pool (`pairs.development`) is read: its items are dealt to
training, validation and test among themselves (`pairs.pool='development'`), what the recipe stands
on is trained on them too, and no seed of the recipe itself ever tests one.

WORKDIR/choice.json says what was seen (every try's settings and its figure for every seed) and what
was chosen, with commit, date and the pool's fingerprint. A stopped search goes on.
"""

import argparse
import ast
import datetime
import importlib.util
import itertools
import json
import math
import statistics
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from mmjax import study
from mmjax.commands.recipes import find_recipe, load_recipe
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.files import digest_of, write_json
from mmjax.report.results import Results
from mmjax.sharding import make_mesh
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import merged, resolve_recipe

CHOICE = "choice.json"
METRICS = {"prompts": "accuracy", "projection": "LR weighted"}  # others: mR
SYSTEMS = {"projection": "projection"}  # others: adapted
Run = Callable[[dict[str, Any], Path, str], Mapping[str, Mapping[str, Sequence[float]]]]


@dataclass(frozen=True)
class Search:
    """What is tried.

    Attributes:
      config: the recipe, on its pool alone, without variants.
      methods: name -> changes of it.
      spaces: name -> dotted setting -> what it is drawn from.
      tries: of every method.
      system: whose figure decides.
      metric: which one; the higher, the better.
    """

    config: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    spaces: Mapping[str, Mapping[str, Any]]
    tries: int
    system: str
    metric: str


def on_pool(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that reads its development pool alone, and so does all that it stands on.

    Raises:
      MmjaxError: it has no pool.
    """
    recipe = {name: value for name, value in config.items() if name != "variants"}
    pairs = recipe.get("pairs", {})
    if not pairs.get("development"):
        raise MmjaxError(
            "the recipe has no development pool; set --set pairs.development=0.3, and keep it in "
            "the recipe, so that no seed tests what was chosen on"
        )
    recipe["pairs"] = {**pairs, "pool": "development"}
    if isinstance(base := recipe.get("base"), Mapping):
        below = {"development": pairs["development"], **base.get("pairs", {})}
        recipe["base"] = on_pool({**base, "pairs": below})
    return recipe


def draw(space: Mapping[str, Any], method: str, number: int) -> dict[str, Any]:
    """The settings of a try, the same whenever it is asked for; those of the first are none."""
    if number == 0:
        return {}
    rng = np.random.default_rng([zlib.crc32(method.encode()), number])
    return {name: _one(values, rng) for name, values in sorted(space.items())}


def _one(values: Any, rng: np.random.Generator) -> Any:
    if isinstance(values, Mapping):
        (kind, (low, high)) = next(iter(values.items()))
        if kind == "log":
            return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")
        return float(f"{rng.uniform(low, high):.3g}")
    return values[int(rng.integers(len(values)))]


def draws_of(space: Mapping[str, Any], method: str, tries: int) -> list[dict[str, Any]]:
    """So many different tries; fewer where the space has no more."""
    draws: list[dict[str, Any]] = []
    for number in itertools.islice(itertools.count(), 50 * tries):
        settings = draw(space, method, number)
        if settings not in draws:
            draws.append(settings)
        if len(draws) == tries:
            break
    return draws


def with_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with dotted settings replaced."""
    recipe = {k: dict(v) if isinstance(v, Mapping) else v for k, v in config.items()}
    for name, value in settings.items():
        part, _, rest = name.partition(".")
        inner = recipe.get(part, {})
        recipe[part] = with_settings(inner, {rest: value}) if rest else value
    return recipe


def search(what: Search, workdir: Path, about: dict[str, Any], run: Run) -> dict[str, Any]:
    """Tries every method as often, and writes what was seen after each try.

    Args:
      what: the search.
      workdir: holds a run folder a try, and choice.json.
      about: what choice.json says beside it.
      run: (recipe, folder, name) -> the figures of its systems.

    Returns:
      What choice.json says.
    """
    unknown = set(what.methods) - set(what.spaces)
    if unknown:
        raise MmjaxError(f"SEARCH lacks {sorted(unknown)}: every method has a space of its own")
    kept = {name: draws_of(what.spaces[name], name, what.tries) for name in what.methods}
    short = {name: len(draws) for name, draws in kept.items() if len(draws) < what.tries}
    if short:
        raise MmjaxError(
            f"the spaces have fewer than {what.tries} different tries ({short}); every method gets "
            "as many: give --tries at most so many"
        )
    config = {**what.config}
    base = config.get("base")
    if isinstance(base, Mapping):
        top = {name: config[name] for name in ("seeds", "languages", "mesh") if name in config}
        evals = {"name": "chosen_base", "evals": ("retrieval",)}
        run({**base, **top, **evals}, workdir / "base", "base")
        config["base"] = str(workdir / "base")
    methods: dict[str, Any] = {}
    for name, changes in what.methods.items():
        tried: list[dict[str, Any]] = []
        for number, settings in enumerate(kept[name]):
            recipe = with_settings(merged(config, changes), settings)
            recipe["name"] = f"choose_{name}_{number}"
            scores = run(recipe, workdir / name / f"try_{number}", name)[what.system][what.metric]
            mean = statistics.fmean(scores)
            tried.append({"settings": settings, "scores": list(scores), "mean": mean})
            best = max(tried, key=lambda one: one["mean"])  # of equals the first
            methods[name] = {"tries": tried, "chosen": best["settings"], "mean": best["mean"]}
            record = {**about, "tries": what.tries, "system": what.system, "metric": what.metric}
            write_json(workdir / CHOICE, {**record, "methods": methods})
    return json.loads((workdir / CHOICE).read_text(encoding="utf-8"))


def train(recipe: dict[str, Any], folder: Path, name: str) -> Mapping[str, Any]:
    """Trains and measures a recipe, unless it was."""
    folder.mkdir(parents=True, exist_ok=True)
    study.run(resolve_recipe(recipe), recipe, folder, f"tools.choose: {name}")
    return Results.load(folder / "results.json").systems


def pool_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the pool: its share, its items and families, and which they are."""
    recipe = resolve_recipe(config)
    library = Library(make_mesh(1, 1), recipe.languages)
    items = library.corpus(recipe.main.pairs).items
    return {
        "development": recipe.main.pairs.development,
        "items": len(items),
        "families": len({item.family for item in items}),
        "fingerprint": digest_of(sorted(item.id for item in items)),
    }


def _module(recipe: str) -> Any:
    """The recipe's file, which names methods and spaces."""
    path = find_recipe(recipe).partition(":")[0]
    spec = importlib.util.spec_from_file_location(f"search_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "SEARCH") or not hasattr(module, "METHODS"):
        raise MmjaxError(f"{path} has no METHODS and SEARCH: it does not say what may be chosen")
    return module


def _commit() -> str:
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(git, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def _literal(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a search from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.choose", description=__doc__)
    parser.add_argument("--config", required=True, help="the recipe's file, perhaps :CHOICE")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--tries", type=int, default=8, help="of every method (default 8)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD")
    parser.add_argument("--metric", help="default: accuracy of few shots, else mR")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", dest="changes")
    options = parser.parse_args(arguments)
    try:
        overrides = dict(map(_literal, options.changes))
        loaded: ConfigDict = load_recipe(options.config, overrides)
        config = on_pool({**as_dict(loaded), "seeds": tuple(options.seeds)})
        module, task = _module(options.config), str(config["task"])
        chosen = options.only or list(module.METHODS)
        what = Search(
            config,
            {name: module.METHODS[name] for name in chosen},
            {name: module.SEARCH[name] for name in chosen if name in module.SEARCH},
            options.tries,
            SYSTEMS.get(task, "adapted"),
            options.metric or METRICS.get(task, "mR"),
        )
        about = {
            "recipe": options.config,
            "set": overrides,
            "seeds": options.seeds,
            "commit": _commit(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "pool": pool_of(config),
        }
        choice = search(what, options.workdir, about, train)
    except MmjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = Table(title=f"{what.metric} on the development pool, {what.tries} tries each")
    for column in ("method", "as it stands", "chosen", "settings"):
        table.add_column(column)
    for name, method in choice["methods"].items():
        first = f"{method['tries'][0]['mean']:.3f}"
        table.add_row(name, first, f"{method['mean']:.3f}", json.dumps(method["chosen"]))
    Console().print(table)
    print(f"what was seen: {options.workdir / CHOICE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A recipe from end to end: every stage with every seed, then the table and the report."""

import dataclasses
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mmjax import checkpoint, fewshot, sharding
from mmjax.base import stage_of
from mmjax.data import questions
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.evals.plain_text import read_text
from mmjax.evals.probe import check_installed
from mmjax.measure import measure
from mmjax.pairs_spec import PairsSpec
from mmjax.probing import make_probe_report, measure_probes
from mmjax.recipe import Recipe
from mmjax.report import print_table, write_report
from mmjax.results import Results, make_report
from mmjax.spec import Stage
from mmjax.train import Run, train, versions
from mmjax.writer import write_atomic

# What may change between two starts of one run without making it another run.
FREE = ("mesh", "checkpoint", "writer")


def plan(recipe: Recipe, workdir: Path) -> list[Run]:
    """The runs of a recipe in the order they are made: seed by seed, the base first."""
    runs: list[Run] = []
    for seed in recipe.seeds:
        base = _outside_base(recipe, seed) if recipe.base else None
        for stage in recipe.stages:
            needs = base if stage.task in ("language", "domain", "prompts") else None
            run = Run(recipe, stage, seed, workdir / f"seed_{seed}" / stage.name, needs)
            runs.append(run)
            if stage.name == "base":
                base = run
    return runs


def _outside_base(recipe: Recipe, seed: int) -> Run:
    """A finished base of another run folder; its split must be this seed's own."""
    from mmjax.use import find_adapter

    folder = find_adapter(Path(str(recipe.base)), seed)
    card = checkpoint.read_card(folder)
    stage = stage_of(card)
    main = recipe.main
    wanted = ("contrastive", "pretrained", *(("language",) if main.task == "domain" else ()))
    if stage.task not in wanted:
        raise MmjaxError(
            f"{folder} is a {stage.task!r} adapter; config.base needs one of {', '.join(wanted)}"
        )
    if main.task != "language" and main.encoders != stage.encoders:
        raise MmjaxError(
            f"{folder} stands on other encoders ({_flat_encoders(stage)}) than config.encoders "
            f"({_flat_encoders(main)}); a domain is adapted with those of its base"
        )
    if stage.task != "pretrained" and stage.pairs.source == main.pairs.source:
        if card["seed"] != seed:
            raise MmjaxError(
                f"{folder} was trained with seed {card['seed']}: its training items may be test "
                f"items of seed {seed}; set --config.seeds='({card['seed']},)' or give the base of "
                "that seed"
            )
        if main.task != "language" and _dealt(stage) != _dealt(main):
            raise MmjaxError(
                f"{folder} was trained on another split or domain of {main.pairs.source}: its "
                "training items may be test items here; give a base with the same config.pairs"
            )
    return Run(recipe, stage, seed, folder.parent)


def _dealt(stage: Stage) -> PairsSpec:
    """What decides on which side of the split an item is."""
    domain = dataclasses.replace(stage.pairs.domain, fraction=1.0)
    return dataclasses.replace(stage.pairs, domain=domain, views=())


def _flat_encoders(stage: Stage) -> str:
    return ", ".join(f"{role}: {spec.source}" for role, spec in sorted(stage.encoders.items()))


def run(recipe: Recipe, config: Mapping[str, Any], workdir: Path, command: str) -> None:
    """Trains what is not trained yet, measures, writes the report and prints the table.

    Args:
      recipe: what to do.
      config: the recipe as plain values; the run folder keeps it.
      workdir: the run folder; a stopped run in it goes on.
      command: what the user typed.

    Raises:
      MmjaxError: the folder holds another recipe; anything that training refuses.
    """
    began = time.monotonic()
    claim(workdir, config)
    finished = workdir / "results.json"
    if finished.is_file() and all(r.is_done for r in plan(recipe, workdir)):
        print(f"{workdir} is complete; its adapters and results are used as they are")
        show(Results.load(finished), workdir)
        return
    if "probe" in recipe.evals:
        check_installed()
    if "text" in recipe.evals:
        read_text(recipe.main.questions.text)
    mesh = sharding.make_mesh(recipe.mesh.data, recipe.mesh.model)
    library = Library(mesh, recipe.languages)
    _write_json(workdir / "env.json", environment(recipe))
    runs = plan(recipe, workdir)
    # All data is read before anything is trained on some of it: a mistake in the last stage's must
    # not cost the first stage's time.
    for stage in recipe.stages:
        library.check(stage)
        for seed in recipe.seeds if stage.task == "prompts" else ():
            fewshot.check(stage, library, seed)
    questions.check(recipe, library)
    for one in runs:
        train(one, library)
    evaluate(recipe, workdir, command, library, time.monotonic() - began)


def evaluate(
    recipe: Recipe,
    workdir: Path,
    command: str,
    library: Library | None = None,
    seconds: float = 0.0,
) -> None:
    """Measures finished adapters on the test items, writes the report and prints the table.

    Args:
      recipe: what was trained.
      workdir: the run folder.
      command: what the user typed.
      library: encoders and tables, if they are loaded already.
      seconds: wall time spent so far.

    Raises:
      MmjaxError: a run of the recipe is not finished.
    """
    runs = plan(recipe, workdir)
    for one in runs:
        if not one.is_done:
            raise MmjaxError(
                f"{one.folder} is not finished; train it first: the same command without "
                "--mode evaluate"
            )
    if library is None:
        mesh = sharding.make_mesh(recipe.mesh.data, recipe.mesh.model)
        library = Library(mesh, recipe.languages)
    began = time.monotonic()
    probing = recipe.main.task == "projection"
    results = (measure_probes if probing else measure)(runs, recipe, library)
    results = dataclasses.replace(
        results,
        command=command,
        environment=environment(recipe),
        peak_memory_bytes=peak_memory(),
        timings={
            **results.timings,
            "evaluation": time.monotonic() - began,
            "this start in all": seconds + time.monotonic() - began,
        },
    )
    # Every process has its part in it.
    report = (make_probe_report if probing else make_report)(results, runs, recipe, library)
    if jax.process_index() == 0:
        write_report(workdir, report)
        results.save(workdir / "results.json")
        show(results, workdir)


def show(results: Results, workdir: Path) -> None:
    """Prints the table and where the report is."""
    for table in results.tables:
        print_table(table)
    for line in results.headline_lines():
        print(line)
    print(f"report: {(workdir / 'report.html').resolve()}")


def claim(workdir: Path, config: Mapping[str, Any]) -> None:
    """Makes the run folder this recipe's own, or refuses where it is another's.

    Raises:
      MmjaxError: the folder holds another recipe, or cannot be written.
    """
    path = workdir / "config.json"
    mine = json.loads(json.dumps(_flat({k: v for k, v in config.items() if k not in FREE})))
    if path.is_file():
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise MmjaxError(f"{path} is damaged ({error}); use another --workdir") from error
        differing = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        if differing:
            shown = ", ".join(
                f"{k}: {theirs.get(k)!r} there, {mine.get(k)!r} here" for k in differing[:3]
            )
            raise MmjaxError(
                f"{workdir} holds a run of another recipe ({shown}"
                f"{', ...' if len(differing) > 3 else ''}); use another --workdir or remove it"
            )
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MmjaxError(f"cannot make the run folder {workdir}: {error.strerror}") from error
    if jax.process_index() == 0:
        _write_json(path, mine)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def environment(recipe: Recipe) -> dict[str, str]:
    """Versions, devices and mesh of this start."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **versions(),
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "mesh": f"data={recipe.mesh.data}, model={recipe.mesh.model}",
    }


def peak_memory() -> int:
    """Most resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

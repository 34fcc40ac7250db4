"""A recipe from end to end: every stage with every seed, then the table and the report."""

import dataclasses
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mmjax import sharding
from mmjax.checks.names import check_folder
from mmjax.data.labels import sentences
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.files import write_json
from mmjax.processes import timings
from mmjax.report.page import print_table, print_timings, write_report
from mmjax.report.results import Results
from mmjax.runs import lock, run_folder
from mmjax.runs.pace import peak_memory
from mmjax.specs.families import family_of
from mmjax.specs.recipe import Recipe
from mmjax.tasks import early
from mmjax.tasks.cards import versions
from mmjax.tasks.catalog import definition_of
from mmjax.tasks.run import Run
from mmjax.training import train

RESULTS = "results.json"
REPORTS = ("report.html", "report.md")
log = logging.getLogger("mmjax")


def plan(recipe: Recipe, workdir: Path, under: Run | None = None) -> list[Run]:
    """The runs of a recipe in the order they are made: seed by seed, the base first.

    Args:
      recipe: what is run.
      workdir: the run folder.
      under: what stands in for the finished run that the recipe names as its base.

    Raises:
      MmjaxError: there is no such finished run, or it does not go with the recipe.
    """
    runs: list[Run] = []
    for seed in recipe.seeds:
        base = under
        if recipe.base and base is None:
            base = definition_of(recipe.lowest.task).base_of(recipe, seed)
        for stage in recipe.stages:
            needs = base if family_of(stage.task).stands_on else None
            run = Run(recipe, stage, seed, workdir / f"seed_{seed}" / stage.name, needs)
            runs.append(run)
            if stage.name in recipe.links:
                base = run
    return runs


def run(recipe: Recipe, config: Mapping[str, Any], workdir: Path, command: str) -> None:
    """Trains what is not trained yet, measures, writes the report and prints the table.

    Args:
      recipe: what to do.
      config: the recipe as plain values; the run folder keeps it.
      workdir: the run folder; a stopped run in it goes on.
      command: what the user typed.

    Raises:
      MmjaxError: the folder holds another recipe, or another process is at work in it; anything
        that training refuses.
    """
    check_folder("--workdir", workdir)
    with lock.hold(workdir), timings.recorded() as clock:
        _run(recipe, config, workdir, command, clock)


def _run(
    recipe: Recipe, config: Mapping[str, Any], workdir: Path, command: str, clock: timings.Timings
) -> None:
    if (workdir / run_folder.CONFIG).is_file():
        run_folder.check_same(workdir, config)
    runs = plan(recipe, workdir)
    complete = (workdir / RESULTS).is_file() and all(run.is_done for run in runs)
    if complete and show_again(recipe, runs, workdir):
        return
    library = _library(recipe)
    if not complete:
        # A mistake in what comes last must not cost the time of what comes first, and a start that
        # is refused leaves the folder as it was.
        early.check_early(recipe, runs, library)
        tell_left_out(recipe, library)
        for run in runs:
            with timings.phase("training"):
                train(run, library, lambda: claim(workdir, config, recipe))
        claim(workdir, config, recipe)  # where all were trained already
    _measure(recipe, runs, workdir, command, library, clock)


def tell_left_out(recipe: Recipe, library: Library) -> None:
    """Says before the training which classes it will not see; the report says so again."""
    left_out = definition_of(recipe.main.task).left_out(recipe, library)
    for level, wanted in ((logging.WARNING, False), (logging.INFO, True)):
        for sentence in sentences(entry for entry in left_out if entry.wanted == wanted):
            log.log(level, "%s", sentence)


def evaluate(recipe: Recipe, config: Mapping[str, Any], workdir: Path, command: str) -> None:
    """Measures finished adapters on the test items, writes the report and prints the table.

    Other evals or benchmarks than those that the run was trained with are another evaluation: it
    gets a folder of its own within the run's.

    Args:
      recipe: what was trained.
      config: the recipe as plain values.
      workdir: the run folder.
      command: what the user typed.

    Raises:
      MmjaxError: the folder holds no run, or another recipe's; a run of it is not finished;
        another process is at work in it.
    """
    run_folder.check_same(workdir, config, run_folder.ASKED)
    with lock.hold(workdir), timings.recorded() as clock:
        _evaluate(recipe, config, workdir, command, clock)


def _evaluate(
    recipe: Recipe, config: Mapping[str, Any], workdir: Path, command: str, clock: timings.Timings
) -> None:
    runs = plan(recipe, workdir)
    for run in runs:
        if run.damage is not None:
            raise MmjaxError(
                f"{run.folder} is not whole ({run.damage}); the same command without --mode "
                "evaluate, and with --config, mends it"
            )
        if not run.is_done:
            raise MmjaxError(
                f"{run.folder} is not finished; train it first: the same command without "
                "--mode evaluate, and with --config"
            )
    library = _library(recipe)
    early.check_asked(recipe, library)
    place = run_folder.evaluation_folder(workdir, config)
    if place != workdir:
        print(
            f"other evals or benchmarks than the run's own: its results stay, these go to {place}"
        )
        if jax.process_index() == 0:
            place.mkdir(parents=True, exist_ok=True)
            settings = {name: run_folder.kept(config).get(name) for name in run_folder.ASKED}
            write_json(place / "asked.json", settings)
    elif (place / RESULTS).is_file():
        print(f"measured again: the results and the report in {place} are replaced")
    _measure(recipe, runs, place, command, library, clock)


def _library(recipe: Recipe) -> Library:
    mesh = sharding.make_mesh(recipe.mesh.data, recipe.mesh.model, recipe.mesh.slices)
    return Library(mesh, recipe.languages)


def _measure(
    recipe: Recipe,
    runs: list[Run],
    folder: Path,
    command: str,
    library: Library,
    clock: timings.Timings,
) -> None:
    """Measures finished runs and writes results and report into a folder."""
    with timings.phase("evaluation"):
        results = definition_of(recipe.main.task).measure(runs, recipe, library)
    spent = clock.table()
    results = dataclasses.replace(
        results,
        command=command,
        environment=environment(recipe),
        peak_memory_bytes=peak_memory(),
        timings={
            **results.timings,
            **{f"this start: {name}": seconds for name, seconds in spent.items()},
            "this start in all": sum(spent.values()),
        },
    )
    with timings.phase("report"):
        _report(results, runs, recipe, library, folder)
    if jax.process_index() == 0:
        results.save(folder / RESULTS)
        show(recipe, results, folder)
        print_timings(clock.table())


def _report(
    results: Results, runs: list[Run], recipe: Recipe, library: Library, folder: Path
) -> None:
    """Writes the report; every process has its part in it."""
    report = definition_of(recipe.main.task).report(results, runs, recipe, library)
    if jax.process_index() == 0:
        write_report(folder, report)


def show_again(recipe: Recipe, runs: list[Run], workdir: Path) -> bool:
    """Prints the results of a finished run; a report that is gone is written again from them.

    Args:
      recipe: what was trained.
      runs: finished.
      workdir: the run folder.

    Returns:
      False where the results are damaged, and have to be measured again.
    """
    try:
        results = Results.load(workdir / RESULTS)
    except MmjaxError as error:
        log.warning("%s; measuring again", error)
        return False
    print(f"{workdir} is complete; its adapters and results are used as they are")
    if not all((workdir / name).is_file() for name in REPORTS):
        log.warning("the report in %s is gone; it is written again from %s", workdir, RESULTS)
        _report(results, runs, recipe, _library(recipe), workdir)
    show(recipe, results, workdir)
    return True


def show(recipe: Recipe, results: Results, workdir: Path) -> None:
    """Prints the table and where the report is."""
    definition = definition_of(recipe.main.task)
    for table in definition.tables(results):
        print_table(table)
    for name, value in definition.headline(results):
        print(f"{name}: {value}")
    print(f"report: {(workdir / 'report.html').resolve()}")


def claim(workdir: Path, config: Mapping[str, Any], recipe: Recipe) -> None:
    """Makes the run folder this recipe's own: called when the first stage begins to train.

    Args:
      workdir: the run folder, made if missing.
      config: the recipe as plain values.
      recipe: the same, read.

    Raises:
      MmjaxError: the folder cannot be written.
    """
    run_folder.make(workdir)
    if jax.process_index() == 0:
        if not (workdir / run_folder.CONFIG).is_file():
            write_json(workdir / run_folder.CONFIG, run_folder.kept(config))
        write_json(workdir / "env.json", environment(recipe))


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

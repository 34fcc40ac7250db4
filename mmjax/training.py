"""One whole run, readable top to bottom; the only training loop there is."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax import metrics, optim, sharding, trees
from mmjax.checkpoint import Checkpoints
from mmjax.data.library import Library
from mmjax.data.pipeline import Phase, train_batches
from mmjax.errors import MmjaxError
from mmjax.files import write_atomic
from mmjax.losses.consolidation import Prior, fisher_diagonal
from mmjax.processes import interrupts
from mmjax.progress import track
from mmjax.rng import key_for, seed_for
from mmjax.runs import finished
from mmjax.runs.adapter_files import save_adapter
from mmjax.runs.pace import Pace
from mmjax.state import TrainState, create
from mmjax.step import make_train_step
from mmjax.tasks import typed
from mmjax.tasks.base import Continual, Task
from mmjax.tasks.cards import make_card
from mmjax.tasks.catalog import assemble
from mmjax.tasks.run import Assembly, Data, Run
from mmjax.trees import PyTree
from mmjax.writer import MetricsWriter

log = logging.getLogger("mmjax")


def train(run: Run, library: Library, begin: Callable[[], None] = lambda: None) -> None:
    """Trains a stage, or goes on where it was stopped, until its adapter is finished.

    Args:
      run: a stage with a seed.
      library: loads encoders and tables once.
      begin: called once nothing is left that could refuse the run, before anything is written.

    Raises:
      MmjaxError: the loss is not finite, the disk is full, a checkpoint of other encoders.
    """
    if run.is_done:
        return
    damage = run.damage
    if damage is not None:
        log.warning("%s is not whole (%s): it is mended", run.folder, damage)
    stage, spec = run.stage, run.stage.train
    mesh = library.mesh

    # ---- What is trained, on what
    assembly = assemble(run, library)
    task, data, frozen = assembly.task, assembly.data, assembly.frozen
    validation = data.val
    if validation is None:
        adopt(run, assembly, library, begin)
        return
    sharding.check_batch(spec.batch_size, mesh)
    key = key_for(run.seed, stage.name)
    if assembly.initial is not None:
        trainable = assembly.initial(jax.random.fold_in(key, 0))
    else:
        example = data.example(spec.batch_size, run.seed, mesh)
        example = sharding.place_batch(example, mesh, spec.batch_size)
        init = typed.jit(task.init, out_shardings=sharding.replicated(mesh))
        trainable = init(jax.random.fold_in(key, 0), frozen, example)
    if assembly.prior is not None:
        frozen["prior"] = prior_of(run, task, trainable, frozen, assembly.prior, mesh)
    tx, schedule = optim.make_optimizer(stage.optim, trainable, spec.steps)
    state = sharding.settle(create(trainable, tx, jax.random.fold_in(key, 1)), mesh)
    batches = data.batches(spec.steps, spec.batch_size, run.data_seed, mesh)
    train_step = make_train_step(task, tx, spec.accumulate, mesh.shape["data"])
    published = data.publish(task, mesh)
    card = make_card(run, library, assembly)

    # ---- Where it goes on: own checkpoint, else from scratch
    begin()
    run.folder.mkdir(parents=True, exist_ok=True)
    notes = optim.treatment(stage.optim, trainable)
    write_atomic(run.folder / "params.txt", trees.overview(trainable, notes) + "\n")
    checkpoints = Checkpoints(run.folder / "checkpoints", spec.keep, card)
    restored = checkpoints.restore(
        state,
        batches,
        run.recipe.allow_other_encoder,
        lambda step, progress: finished.misfit(run.folder, step, progress),
    )
    progress: dict[str, Any]
    progress = {"best": None, "best_step": 0, "stale": 0, "stopped": False, "seconds": 0.0}
    if restored is not None:
        state, progress = restored
        mend_adapter(run, state, progress, card)
    elif damage is not None and spec.steps:
        raise MmjaxError(
            f"{run.folder} is not whole ({damage}) and has no checkpoint to mend it from; remove "
            "that folder to train the stage again"
        )
    mark, opened = progress.pop("metrics", None), progress.pop("window", None)
    unjudged = progress.pop("unjudged", False)  # stopped before its evaluation was over
    start, began = int(state.step), time.monotonic() - progress["seconds"]
    writer = MetricsWriter(
        run.folder,
        resume_step=start if restored else None,
        mark=mark,
        trackers=run.recipe.trackers,
    )

    # ---- The loop
    window: list[metrics.Metrics] = [metrics.read_metrics(opened)] if opened else []
    last_good, note = start, ""
    label = f"seed {run.seed}: training {stage.name}"
    with writer, checkpoints, Pace(run.folder, start) as pace, interrupts.held():

        def judge(step: int, trainable: PyTree) -> None:
            functions = published.bind(trainable, frozen)
            with pace.spent_on("evaluation"), interrupts.released():
                values = validation.run(assembly.evaluators, functions)
            writer.write(step, {f"val/{name}": value for name, value in values.items()})
            keep_best(run, trainable, step, values, progress, card)

        if unjudged:
            judge(start, state.trainable)
        steps = track(range(start + 1, spec.steps + 1), label, None, start, lambda: note)
        for step in steps:
            if progress["stopped"]:
                break
            pace.begin(step)
            with pace.spent_on("loader"):
                batch = sharding.place_batch(next(batches), mesh, spec.batch_size)
            state, step_metrics = train_step(state, frozen, batch)
            window.append(step_metrics)
            # Looking at the step before this one keeps the device busy meanwhile.
            if len(window) > 1:
                check_finite(window[-2], step - 1, run, last_good)
            last = step == spec.steps
            evaluate = last or step % spec.eval_every == 0
            if evaluate or step % spec.save_every == 0 or step % spec.log_every == 0:
                check_finite(window[-1], step, run, last_good)
                with pace.spent_on("metrics"):
                    values = metrics.compute(metrics.merge(window))
                    window = []
                    rate = float(np.asarray(schedule(step - 1)))
                    writer.write(step, {**values, "learning_rate": rate})
                note = f"loss {values['loss']:.3g}" if "loss" in values else ""
                pace.record(step)
            stop, unjudged = interrupts.stop_here(), evaluate
            if evaluate and stop is None:
                try:
                    judge(step, state.trainable)
                    stop, unjudged = interrupts.stop_here(), False
                except interrupts.Interrupted as asked:
                    stop = asked.signum
            if evaluate or step % spec.save_every == 0 or stop is not None:
                progress["seconds"] = time.monotonic() - began
                facts = {**progress, "metrics": writer.mark(), "unjudged": unjudged}
                if window:  # a signal came between two records
                    check_finite(window[-1], step, run, last_good)
                    facts["window"] = metrics.plain(metrics.merge(window))
                with pace.spent_on("saving"):
                    checkpoints.save(state, batches, facts)
                last_good = step
            if stop is not None:
                raise interrupts.Interrupted(stop)
        if not spec.steps:  # training-free
            keep_best(run, state.trainable, 0, {}, progress, card)
    finish(run, {"steps": int(state.step), **progress})


def finish(run: Run, facts: Mapping[str, Any]) -> None:
    """Seals the run; no process goes on before it is."""
    if jax.process_index() == 0:
        finished.seal(run.folder, facts)
    sharding.wait_for_all(f"finished {run.folder}")


def prior_of(
    run: Run, task: Task, trainable: PyTree, frozen: PyTree, phase: Phase, mesh: Mesh
) -> Prior:
    """Where the parameters stand, and how much each matters for what the base was trained on."""
    assert isinstance(task, Continual)
    spec = run.stage.continual
    size = min(spec.fisher_batch_size, len(phase))
    seed = seed_for(run.seed, run.stage.name, "prior")
    sharding.check_batch(size, mesh)
    batches = train_batches([phase], spec.fisher_batches, size, seed, mesh)
    placed = (sharding.place_batch(batch, mesh, size) for batch in batches)
    fisher = fisher_diagonal(task.example_losses, trainable, frozen, placed)
    return Prior(jax.tree.map(jnp.copy, trainable), fisher)  # the state's own buffers are donated


def adopt(
    run: Run, assembly: Assembly[Task, Data], library: Library, begin: Callable[[], None]
) -> None:
    """Finishes a stage for which nothing is trained: its adapter is what it begins with.

    Args:
      run: a stage with a seed.
      assembly: the same put together.
      library: knows the encoders.
      begin: as of `train`.

    Raises:
      MmjaxError: the disk is full.
    """
    trainable = assembly.task.init(key_for(run.seed, run.stage.name), assembly.frozen, {})
    begin()
    run.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(run.folder / "params.txt", trees.overview(trainable) + "\n")
    card = make_card(run, library, assembly)
    save_adapter(run.adapter, trainable, {**card, "step": 0, "validation": {}})
    finish(run, {"steps": 0, "seconds": 0.0})


def keep_best(
    run: Run,
    trainable: PyTree,
    step: int,
    values: Mapping[str, float],
    progress: dict[str, Any],
    card: Mapping[str, Any],
) -> None:
    """Writes the adapter where validation is better than ever, else counts towards patience."""
    select = run.stage.train.select
    value = step if select == "none" else values[select]
    if progress["best"] is None or value > progress["best"]:
        adapter_card = {**card, "step": step, "validation": dict(values)}
        fingerprint = save_adapter(run.adapter, trainable, adapter_card)
        progress |= {"best": value, "best_step": step, "stale": 0}
        progress |= {"adapter": fingerprint, "validation": dict(values)}
    else:
        progress["stale"] += 1
    patience = run.stage.train.patience
    progress["stopped"] = bool(patience) and progress["stale"] >= patience


def mend_adapter(
    run: Run, state: TrainState, progress: Mapping[str, Any], card: Mapping[str, Any]
) -> None:
    """Writes the adapter again from a checkpoint that is the best step, where it is not there."""
    step = int(state.step)
    if progress["best"] is None or progress["best_step"] != step:
        return
    reason = finished.adapter_misfit(run.folder, step, progress)
    if reason is not None:
        log.warning("%s: written again from the checkpoint of step %d", reason, step)
        select = run.stage.train.select
        validation = {} if select == "none" else {select: progress["best"]}
        adapter_card = {**card, "step": step, "validation": progress.get("validation", validation)}
        save_adapter(run.adapter, state.trainable, adapter_card)


def check_finite(values: metrics.Metrics, step: int, run: Run, last_good: int) -> None:
    """Stops the run at the first loss or gradient that is no number."""
    computed = metrics.compute({name: values[name] for name in ("loss", "grad_norm")})
    bad = [name for name, value in computed.items() if not np.isfinite(value)]
    if bad:
        raise MmjaxError(
            f"{' and '.join(bad)} at step {step} of {run.stage.name} (seed {run.seed}) is not "
            f"finite; stopped, the last good state is step {last_good} in "
            f"{run.folder / 'checkpoints'}. Try a lower --config.optim.lr or "
            "--config.optim.clip_norm=1.0 with a new --workdir"
        )

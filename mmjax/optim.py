"""Optimizers: optax chains built from the recipe, over the trainable tree alone."""

import jax
import optax

from mmjax import trees
from mmjax.errors import MmjaxError
from mmjax.spec import OptimSpec


def make_schedule(spec: OptimSpec, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to `lr`, then the named decay to `lr * final_fraction`.

    Args:
      spec: the optimizer's part of the recipe.
      steps: length of the whole run in optimizer steps.

    Returns:
      step -> learning rate.
    """
    warmup = min(spec.warmup_steps, max(steps - 1, 0))
    rest = max(steps - warmup, 1)
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(spec.lr, rest, alpha=spec.final_fraction),
        "linear": lambda: optax.linear_schedule(spec.lr, spec.lr * spec.final_fraction, rest),
        "constant": lambda: optax.constant_schedule(spec.lr),
    }[spec.schedule]()
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, spec.lr, warmup), decay], [warmup])


def make_optimizer(
    spec: OptimSpec, trainable: trees.PyTree, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Clipping, then the named optimizer with decoupled weight decay on matrices only.

    Args:
      spec: the optimizer's part of the recipe.
      trainable: the adapter's parameters (or their shapes).
      steps: length of the whole run in optimizer steps.

    Returns:
      The optax transformation and its learning rate schedule.

    Raises:
      MmjaxError: there is nothing to train.
    """
    if not trees.count(trainable):
        raise MmjaxError("the task has no trainable parameters: there is nothing to optimize")
    schedule = make_schedule(spec, steps)
    # Biases, norms and scales stay free: decaying them only pulls the adapter away from the
    # identity it starts at.
    decayed = jax.tree_util.tree_map_with_path(
        lambda path, _: trees.path_of(path).endswith("kernel"), trainable
    )
    optimizer = {
        "adamw": lambda: optax.adamw(
            schedule, b1=spec.b1, b2=spec.b2, weight_decay=spec.weight_decay, mask=decayed
        ),
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(spec.weight_decay, mask=decayed),
            optax.sgd(schedule, momentum=spec.b1),
        ),
    }[spec.name]()
    chain = [optax.clip_by_global_norm(spec.clip_norm)] if spec.clip_norm else []
    return optax.chain(*chain, optimizer), schedule

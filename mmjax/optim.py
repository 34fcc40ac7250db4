"""Optimizers: optax chains built from the recipe, over the trainable tree alone."""

import logging
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax import trees
from mmjax.errors import MmjaxError
from mmjax.losses.temperature import LOGIT_SCALE_RANGE
from mmjax.specs.spec import OptimSpec

# Parameters that have a range: whole paths, wherever a task keeps such a leaf.
RANGES: tuple[tuple[str, tuple[float, float]], ...] = ((r"(.*/)?logit_scale", LOGIT_SCALE_RANGE),)
# Last parts of paths that weight decay leaves alone, whatever their number of axes: a layer's bias
# is a matrix where layers are stacked.
UNDECAYED = ("bias", "scale", "shift")


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


def decayed(spec: OptimSpec, trainable: trees.PyTree) -> trees.PyTree:
    """Which parameters weight decay pulls towards 0.

    Args:
      spec: says by which rule. `matrices`: everything with two axes or more but biases, scales and
        shifts; so prompts' vectors, residuals of classes, prototypes, cached keys and embeddings
        too. `kernels`: the kernels of dense layers alone.
      trainable: the adapter's parameters (or their shapes).

    Returns:
      A tree of bools.
    """

    def rule(path: tuple[jax.tree_util.KeyEntry, ...], leaf: Any) -> bool:
        name = trees.path_of(path).rpartition("/")[2]
        return name == "kernel" or (
            spec.decay == "matrices" and leaf.ndim > 1 and name not in UNDECAYED
        )

    return jax.tree_util.tree_map_with_path(rule, trainable)


def treatment(spec: OptimSpec, trainable: trees.PyTree) -> trees.PyTree:
    """What `params.txt` says of each parameter: whether it is decayed, or kept in a range."""

    def say(path: tuple[jax.tree_util.KeyEntry, ...], is_decayed: bool) -> str:
        bounds = _range_of(path)
        within = "" if bounds is None else f"kept from {bounds[0]:.4g} to {bounds[1]:.4g}"
        return "decayed" if is_decayed and spec.weight_decay else within

    return jax.tree_util.tree_map_with_path(say, decayed(spec, trainable))


def _range_of(path: tuple[jax.tree_util.KeyEntry, ...]) -> tuple[float, float] | None:
    name = trees.path_of(path)
    return next((found for pattern, found in RANGES if re.fullmatch(pattern, name)), None)


def keep_in_range() -> optax.GradientTransformation:
    """The end of a chain: what has a range in `RANGES` does not leave it.

    The parameter itself is clipped, as CLIP's trainers do after every step: a clip inside the loss
    would leave it outside without a gradient to come back by. Pure, without a state, elementwise.

    Returns:
      A transformation that needs the parameters.
    """

    def clip(
        path: tuple[jax.tree_util.KeyEntry, ...], update: jax.Array, old: jax.Array
    ) -> jax.Array:
        bounds = _range_of(path)
        return update if bounds is None else jnp.clip(old + update, *bounds) - old

    def init(params: optax.Params) -> optax.OptState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise ValueError("keep_in_range needs the parameters")
        return jax.tree_util.tree_map_with_path(clip, updates, params), state

    return optax.GradientTransformation(init, update)


def make_optimizer(
    spec: OptimSpec, trainable: trees.PyTree, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Clipping, then the named optimizer with decoupled weight decay; temperatures stay in range.

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
    mask = decayed(spec, trainable)
    if spec.weight_decay and not any(jax.tree.leaves(mask)):
        logging.getLogger("mmjax").warning(
            "config.optim.weight_decay is %g, but by config.optim.decay=%r nothing that is trained "
            "is decayed: %s",
            spec.weight_decay,
            spec.decay,
            ", ".join(path for path, _ in trees.named_leaves(trainable)),
        )
    optimizer = {
        "adamw": lambda: optax.adamw(
            schedule, b1=spec.b1, b2=spec.b2, weight_decay=spec.weight_decay, mask=mask
        ),
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(spec.weight_decay, mask=mask),
            optax.sgd(schedule, momentum=spec.b1),
        ),
    }[spec.name]()
    chain = [optax.clip_by_global_norm(spec.clip_norm)] if spec.clip_norm else []
    return optax.chain(*chain, optimizer, keep_in_range()), schedule

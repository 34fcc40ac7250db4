"""Optimizers: optax chains built from the recipe, over the trainable tree alone."""

import logging
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax import trees
from mmjax.errors import MmjaxError, setting
from mmjax.losses.temperature import LOGIT_SCALE_RANGE
from mmjax.specs.spec import OptimSpec

# Parameters that have a range: whole paths, wherever a task keeps such a leaf.
RANGES: tuple[tuple[str, tuple[float, float]], ...] = ((r"(.*/)?logit_scale", LOGIT_SCALE_RANGE),)
# Last parts of paths that weight decay leaves alone, whatever their number of axes: a layer's bias
# is a matrix where layers are stacked.
UNDECAYED = ("bias", "scale", "shift")
# Parameters that an adapter needs and nobody trains, such as the values that others began with.
FIXED = r"(.*/)?fixed/.*"


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
        whole = trees.path_of(path)
        name = whole.rpartition("/")[2]
        if re.fullmatch(FIXED, whole):
            return False
        return name == "kernel" or (
            spec.decay == "matrices" and leaf.ndim > 1 and name not in UNDECAYED
        )

    return jax.tree_util.tree_map_with_path(rule, trainable)


def trained(trainable: trees.PyTree) -> trees.PyTree:
    """Which parameters are trained at all; a tree of bools."""

    def rule(path: tuple[jax.tree_util.KeyEntry, ...], _: Any) -> bool:
        return re.fullmatch(FIXED, trees.path_of(path)) is None

    return jax.tree_util.tree_map_with_path(rule, trainable)


def rate_factors(spec: OptimSpec, trainable: trees.PyTree) -> trees.PyTree:
    """By what each parameter's learning rate is multiplied.

    Args:
      spec: its `rates`, of which the first that matches a whole path counts.
      trainable: the adapter's parameters (or their shapes).

    Returns:
      A tree of floats, 1 where nothing matches.

    Raises:
      MmjaxError: a pattern that is first for no parameter.
    """
    rules = [(re.compile(rule.parameters), rule.factor) for rule in spec.rates]
    used: set[int] = set()

    def rule(path: tuple[jax.tree_util.KeyEntry, ...], leaf: Any) -> float:
        del leaf
        name = trees.path_of(path)
        for i, (pattern, factor) in enumerate(rules):
            if pattern.fullmatch(name):
                used.add(i)
                return factor
        return 1.0

    factors = jax.tree_util.tree_map_with_path(rule, trainable)
    unused = [rate.parameters for i, rate in enumerate(spec.rates) if i not in used]
    if unused:
        raise MmjaxError(
            f"{setting('optim.rates')} names parameters that are not trained: {unused}; trained "
            f"are {', '.join(path for path, _ in trees.named_leaves(trainable))[:1000]}"
        )
    return factors


def scale_by_rates(factors: trees.PyTree) -> optax.GradientTransformation:
    """Multiplies each parameter's update by its factor: as if its learning rate were."""

    def scale(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        return jax.tree.map(lambda update, factor: update * factor, updates, factors)

    return optax.stateless(scale)


def treatment(spec: OptimSpec, trainable: trees.PyTree) -> trees.PyTree:
    """What `params.txt` says of each parameter: decayed, kept in a range, of a rate of its own."""

    def say(path: tuple[jax.tree_util.KeyEntry, ...], is_decayed: bool, factor: float) -> str:
        bounds = _range_of(path)
        within = "" if bounds is None else f"kept from {bounds[0]:.4g} to {bounds[1]:.4g}"
        if re.fullmatch(FIXED, trees.path_of(path)):
            return "not trained"
        first = "decayed" if is_decayed and spec.weight_decay else within
        own = "" if factor == 1 else f"learning rate x {factor:g}"
        return ", ".join(filter(None, (first, own)))

    factors = rate_factors(spec, trainable)
    return jax.tree_util.tree_map_with_path(say, decayed(spec, trainable), factors)


def _range_of(path: tuple[jax.tree_util.KeyEntry, ...]) -> tuple[float, float] | None:
    name = trees.path_of(path)
    return next((bounds for pattern, bounds in RANGES if re.fullmatch(pattern, name)), None)


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
      MmjaxError: there is nothing to train, or a rate is of parameters that are not trained.
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
    learns = trained(trainable)
    if not all(jax.tree.leaves(learns)):
        still = jax.tree.map(lambda one: not one, learns)
        optimizer = optax.chain(
            optax.masked(optimizer, learns), optax.masked(optax.set_to_zero(), still)
        )
    chain = [optax.clip_by_global_norm(spec.clip_norm)] if spec.clip_norm else []
    own = [scale_by_rates(rate_factors(spec, trainable))] if spec.rates else []
    return optax.chain(*chain, optimizer, *own, keep_in_range()), schedule

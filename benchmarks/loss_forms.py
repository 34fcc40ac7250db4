"""The forms of the loss that are compared, and the batch that they are given."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.pairs import SCALE, WIDTH, towers
from mmjax.losses import contrastive
from mmjax.losses.weighting import Focal, HardNegatives

WEIGHTED: dict[str, dict[str, Any]] = {
    "mmjax, focal": {"hard": Focal(1.0)},
    "mmjax, HCL": {"negatives": HardNegatives(0.5, 0.01)},
}


def naive(
    image: Float[Array, "b d"], text: Float[Array, "b d"], logit_scale: Float[Array, ""]
) -> tuple[Float[Array, ""], None]:
    """The loss as one writes it first: the whole matrix of logits, and its transpose."""
    logits = jnp.exp(logit_scale) * image @ text.T
    to_text, to_image = (jnp.diag(jax.nn.log_softmax(rows)) for rows in (logits, logits.T))
    return -(to_text + to_image).mean() / 2, None


FORMS: dict[str, Callable[..., Any]] = {"mmjax": contrastive.info_nce, "naive JAX": naive}


def step(form: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The compiled value and gradients of a form, by both towers and the scale."""

    def loss(
        image: Float[Array, "b d"], text: Float[Array, "b d"], logit_scale: Float[Array, ""]
    ) -> Float[Array, ""]:
        return form(image, text, logit_scale, **options)[0]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


def temporary_bytes(step: Callable[..., Any], batch: int, sharding: Any = None) -> int:
    """What the compiler plans to allocate on a device beside inputs and outputs; nothing runs."""
    return compiled(step, batch, sharding).memory_analysis().temp_size_in_bytes


def compiled(step: Any, batch: int, sharding: Any = None) -> Any:
    """The program for one batch size."""
    tower = jax.ShapeDtypeStruct((batch, WIDTH), jnp.float32, sharding=sharding)
    return step.lower(tower, tower, jax.ShapeDtypeStruct((), jnp.float32)).compile()


def side(form: str, batch: int) -> Callable[[], float]:
    """A form's loss and gradients on the batch that all sides are given.

    Args:
      form: of `FORMS` or `WEIGHTED`.
      batch: pairs.

    Returns:
      The run; it returns the loss.
    """
    more = WEIGHTED.get(form)
    loss_and_grad = step(FORMS[form]) if more is None else step(contrastive.info_nce, **more)
    image, text = (jnp.asarray(x) for x in towers(batch))
    logit_scale = jnp.log(jnp.float32(SCALE))

    def run() -> float:
        loss, _ = jax.block_until_ready(loss_and_grad(image, text, logit_scale))
        return float(loss)

    return run

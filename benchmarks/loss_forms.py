"""The forms of the loss that are compared, and the batch that they are given."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.losses import contrastive
from mmjax.losses.weighting import Focal, HardNegatives

WIDTH = 512
SCALE = 14.3
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


def towers(batch: int, width: int = WIDTH) -> Float[np.ndarray, "2 b d"]:
    """Unit vectors whose pairs are told apart neither at once nor never."""
    rng = np.random.default_rng(0)
    image, noise = rng.normal(size=(2, batch, width)).astype(np.float32)
    both = np.stack([image, 0.2 * image + noise])
    return both / np.linalg.norm(both, axis=-1, keepdims=True)


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

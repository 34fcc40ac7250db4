"""Classes that came after the training: their names, and a residual fitted to a few pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax  # pyright: ignore[reportMissingTypeStubs]  # it has none
from jaxtyping import Array, Float, Int

from mmjax.adapters.classifiers import TaskResidual
from mmjax.checks.arguments import whole
from mmjax.data.tables import InputTable, View
from mmjax.encoders.pictures import ImageLike
from mmjax.tasks import typed
from mmjax.trees import PyTree

# (class, probability) for every picture, best first.
Named: TypeAlias = list[list[tuple[str, float]]]
Logits: TypeAlias = Callable[[View], Float[np.ndarray, "n c"]]
STEPS, LEARNING_RATE, ALPHA = 100, 2e-3, 1.0  # those of the recipe prompts_emoji


def likeliest(logits: Float[np.ndarray, "n c"], names: Sequence[str], k: int) -> Named:
    """The likeliest classes of pictures.

    Args:
      logits: of n pictures.
      names: of the classes.
      k: how many.

    Returns:
      For every picture (class, probability), best first.
    """
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    best = np.argsort(-share, axis=1, kind="stable")[:, :k]
    return [
        [(str(names[c]), float(row[c])) for c in order]
        for row, order in zip(share, best.tolist(), strict=True)
    ]


def fit_residual(
    embedded: Float[np.ndarray, "n e"],
    labels: Int[np.ndarray, " n"],
    logits: Float[np.ndarray, "n c"],
    text: Float[np.ndarray, "c e"],
    scale: float,
) -> Float[np.ndarray, "c e"]:
    """Fits a residual on class embeddings to pictures; each class counts alike, however many.

    Args:
      embedded: the pictures, unit vectors.
      labels: the class of each.
      logits: what is said of them without the residual.
      text: the classes' embeddings.
      scale: of the cosines.

    Returns:
      What is added to the logits' classifier: exp(s) times unit(t + alpha x) - t.

    Source: TaskRes (arXiv 2211.10277), equation 5.
    """
    method, optimizer = TaskResidual(ALPHA), optax.adam(LEARNING_RATE)
    frozen = {"known": {"text": jnp.asarray(text), "logit_scale": jnp.log(scale)}}
    image, offset = jnp.asarray(embedded), jnp.asarray(logits - scale * embedded @ text.T)
    weights = 1 / np.bincount(labels, minlength=len(text))[labels]
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)

    def loss(trainable: PyTree) -> Float[Array, ""]:
        moved_logits = method.score(trainable, frozen, {"features": image})[0] + offset
        each = optax.softmax_cross_entropy_with_integer_labels(moved_logits, jnp.asarray(labels))
        return (weights * each).sum()

    @typed.jit
    def step(trainable: PyTree, moments: PyTree) -> tuple[PyTree, PyTree]:
        _, gradients = typed.value_and_grad(loss)(trainable)
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(trainable, updates), moments

    trainable = method.init(jax.random.key(0), frozen["known"], {"features": image})
    moments = optimizer.init(trainable)
    for _ in range(STEPS):
        trainable, moments = step(trainable, moments)
    moved = text + ALPHA * np.asarray(trainable["residual"])
    moved /= np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    return scale * (moved - text)


@dataclass(frozen=True)
class Taught:
    """A classifier of classes that its adapter did not learn; see `Classifier.taught`.

    Attributes:
      classes: their names.
      read: makes a table of pictures.
      read_base: the same as the frozen model reads them.
      of_names: logits by the names alone, as the adapter reads them.
      of_base: the same as the frozen model reads them.
      residual: fitted to the shots, [c e]; zeros where there were none.
    """

    classes: tuple[str, ...]
    read: Callable[[Sequence[ImageLike]], InputTable]
    read_base: Callable[[Sequence[ImageLike]], InputTable]
    of_names: Logits
    of_base: Logits
    residual: Float[np.ndarray, "c e"]

    def classify(self, images: Sequence[ImageLike], k: int = 1) -> Named:
        """Names the likeliest of these classes; see `Classifier.classify`."""
        whole("k", k, 1)
        table = self.read(images)
        view = View(table, np.arange(len(images)))
        embedded = np.asarray(table.gather(view.rows)["features"], np.float32)
        return likeliest(self.of_names(view) + embedded @ self.residual.T, self.classes, k)

    def classify_base(self, images: Sequence[ImageLike], k: int = 1) -> Named:
        """The same by the frozen model, which knows the names alone."""
        whole("k", k, 1)
        view = View(self.read_base(images), np.arange(len(images)))
        return likeliest(self.of_base(view), self.classes, k)

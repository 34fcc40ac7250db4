"""The Task protocol, and a frozen tower as a task sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key

from mmjax.metrics import Metrics
from mmjax.trees import PyTree

# What one tower reads. Cached: {"features": [b d]} or {"features": [b l d], "mask": [b l]}.
# Raw: {"pixel_values": [b h w 3]} or {"input_ids": [b l], "attention_mask": [b l]}.
# In training also {"row": int32 [b]}: equal rows are the same picture or the same text.
Inputs = Mapping[str, Array]
Batch = Mapping[str, Inputs]  # role -> inputs
EmbedFn = Callable[[PyTree, PyTree, Inputs], Float[Array, "b d"]]
GENERAL = "general_"  # begins the roles of what the base was trained on, beside a domain's own


@dataclass(frozen=True)
class Tower:
    """A frozen encoder's output as a task reads it: from the cache, or computed in the step.

    Attributes:
      role: key of the encoder's weights in the frozen tree (`image`, `text`, `foreign`).
      width: size of the last axis of its features.
      encode: (params, raw inputs) -> {"features", ["mask"]}; None where only cached features come.
      logit_scale: ln(1 / temperature) of a checkpoint with two towers; None where it has one.
    """

    role: str
    width: int
    encode: Callable[[PyTree, Inputs], Inputs] | None = None
    logit_scale: float | None = None

    def __call__(self, frozen: PyTree, inputs: Inputs) -> Inputs:
        """Returns {"features": [b d]} or {"features": [b l d], "mask": [b l]}."""
        if "features" in inputs:
            return inputs
        if self.encode is None:
            raise ValueError(
                f"the {self.role} tower has no encoder and got inputs {sorted(inputs)}"
            )
        return self.encode(frozen[self.role], {k: v for k, v in inputs.items() if k != "row"})


def below(frozen: PyTree) -> PyTree:
    """The frozen tree of what stands on a base, as the base itself reads it.

    Args:
      frozen: the encoders, `base` (what the base trained) and perhaps `below` (what it stands on).

    Returns:
      The same with the leaves of `below` at the top.
    """
    return {**frozen, **frozen.get("below", {})}


@runtime_checkable
class Task(Protocol):
    """What the trainer knows of a method. Pure: no meshes, no files, no state of its own."""

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """The trainable tree before the first step; may read statistics of a batch of examples."""
        ...

    def loss(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """The scalar to minimise, a mean over the global batch, and metrics as sums and counts."""
        ...

    def functions(self) -> Mapping[str, Callable[[PyTree, PyTree, Any], Array]]:
        """Pure functions for evaluators: name -> (trainable, frozen, inputs) -> rows.

        The rows are unit vectors of what is embedded, or say whether answers are right.
        """
        ...


@runtime_checkable
class DualEncoder(Task, Protocol):
    """A task that makes a dual encoder, on which `domain` can stand."""

    @property
    def text_role(self) -> str:
        """The encoder that reads queries."""
        ...

    def embed(
        self,
        role: str,
        trainable: PyTree,
        frozen: PyTree,
        inputs: Inputs,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b e"]:
        """From inputs of `image` or the text role to un-normalised vectors of the joint space."""
        ...

    def normalize(self, projected: Float[Array, "b e"]) -> Float[Array, "b e"]:
        """Unit vectors of the joint space."""
        ...

    def logit_scale(self, trainable: PyTree) -> Float[Array, ""]:
        """Logarithm of the inverse temperature."""
        ...


@runtime_checkable
class TextSpace(DualEncoder, Protocol):
    """A dual encoder into whose space `language` can distil."""

    @property
    def text(self) -> Tower:
        """The tower that reads the base's own language."""
        ...

    @property
    def width(self) -> int:
        """Dimensions of the joint space."""
        ...

    def members(self, projected: Float[Array, "b e"]) -> Float[Array, "m b d"]:
        """Unit vectors of the parts whose cosines are averaged."""
        ...

    def project(
        self,
        role: str,
        trainable: PyTree,
        features: Float[Array, "b d"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b e"]:
        """One tower's pooled features in the joint space, un-normalised; a key means dropout."""
        ...


@runtime_checkable
class Weighted(Protocol):
    """A task whose batches may be cut into micro-batches."""

    def weight(self, batch: Batch) -> Float[Array, ""]:
        """What the loss of a batch is a mean over: examples, or tokens."""
        ...


@runtime_checkable
class Continual(Task, Protocol):
    """A task that can be kept from forgetting by `mmjax.losses.consolidation`."""

    def example_losses(self, trainable: PyTree, frozen: PyTree, batch: Batch) -> Float[Array, " b"]:
        """-log p of every example, without dropout."""
        ...

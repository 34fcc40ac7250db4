"""The Task protocol, and a frozen tower as a task sees it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float, Key

from mmjax.encoders.output import Batch, Inputs, Tower
from mmjax.metrics import Metrics
from mmjax.rng import DropoutKey
from mmjax.trees import PyTree

Loss: TypeAlias = tuple[Float[Array, ""], Metrics]  # what is minimised, and what is told of it
Rows: TypeAlias = Mapping[str, Float[Array, "b e"]]  # what is compared, by role
GENERAL = "general_"  # begins the roles of what the base was trained on, beside a domain's own


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

    def loss(self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]) -> Loss:
        """The scalar to minimise, a mean over the global batch, and metrics as sums and counts."""
        ...

    def functions(self) -> Mapping[str, Callable[[PyTree, PyTree, Any], Array]]:
        """Pure functions for evaluators: name -> (trainable, frozen, inputs) -> rows.

        The rows are unit vectors of what is embedded, or say whether answers are right.
        """
        ...


@runtime_checkable
class DualEncoder(Task, Protocol):
    """A task that makes a dual encoder, on which `domain` or `prompts` can stand."""

    @property
    def text_role(self) -> str:
        """The encoder that reads queries."""
        ...

    def embed(
        self, role: str, trainable: PyTree, frozen: PyTree, inputs: Inputs, key: DropoutKey = None
    ) -> Float[Array, "b e"]:
        """From inputs of `image` or the text role to un-normalised vectors of the joint space."""
        ...

    def normalize(self, projected: Float[Array, "b e"]) -> Float[Array, "b e"]:
        """Unit vectors of the joint space."""
        ...

    def logit_scale(self, trainable: PyTree, frozen: PyTree = None) -> Float[Array, ""]:
        """Logarithm of the inverse temperature; of what stands on a base perhaps the base's."""
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
        self, role: str, trainable: PyTree, features: Float[Array, "b d"], key: DropoutKey = None
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
class Embedding(Protocol):
    """A task whose loss compares the rows of a batch: cut, it would be another loss.

    With `mmjax.tasks.gradient_cache` rows are embedded a part at a time, and compared all together.
    """

    def loss(self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]) -> Loss:
        """`compare` of `embedded`."""
        return self.compare(self.embedded(trainable, frozen, batch, key), trainable, frozen, batch)

    def embedded(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> Rows:
        """What is compared, each row from its own inputs alone."""
        ...

    def compare(self, embedded: Rows, trainable: PyTree, frozen: PyTree, batch: Batch) -> Loss:
        """The loss and the metrics of a whole batch, from its embedded rows."""
        ...


@runtime_checkable
class Continual(Task, Protocol):
    """A task that can be kept from forgetting by `mmjax.losses.consolidation`."""

    def example_losses(self, trainable: PyTree, frozen: PyTree, batch: Batch) -> Float[Array, " b"]:
        """-log p of every example, without dropout."""
        ...

"""Two frozen towers in one space: what a dual encoder of them is, whatever is trained on them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Array, Float

from mmjax.encoders.output import EmbedFn, Inputs, Tower
from mmjax.rng import DropoutKey
from mmjax.trees import PyTree


@dataclass(frozen=True)
class TwoTowers(ABC):
    """A dual encoder of an image tower and a text tower.

    Attributes:
      image: the image tower.
      text: the text tower.
    """

    image: Tower
    text: Tower

    @property
    def towers(self) -> Mapping[str, Tower]:
        """Both, by role."""
        return {tower.role: tower for tower in (self.image, self.text)}

    @property
    def text_role(self) -> str:
        """The encoder that reads queries."""
        return self.text.role

    @abstractmethod
    def embed(
        self, role: str, trainable: PyTree, frozen: PyTree, inputs: Inputs, key: DropoutKey = None
    ) -> Float[Array, "b e"]:
        """See `mmjax.tasks.base.DualEncoder`."""

    @abstractmethod
    def normalize(self, projected: Float[Array, "b e"]) -> Float[Array, "b e"]:
        """See `mmjax.tasks.base.DualEncoder`."""

    def functions(self) -> Mapping[str, EmbedFn]:
        """`embed_images` and `embed_texts`, both onto the unit sphere of the joint space."""
        return {
            "embed_images": lambda t, f, inputs: self.normalize(self.embed("image", t, f, inputs)),
            "embed_texts": lambda t, f, inputs: self.normalize(self.embed("text", t, f, inputs)),
        }

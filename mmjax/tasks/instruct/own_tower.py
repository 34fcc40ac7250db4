"""Visual instructions for a model that has an image tower of its own: a LLaVA, a Qwen-VL, ..."""

from dataclasses import dataclass

from flax import linen as nn
from jaxtyping import Array, Float

from mmjax.adapters.multimodal import Multimodal
from mmjax.encoders.joined import Joined, join
from mmjax.encoders.output import Batch
from mmjax.tasks import typed
from mmjax.tasks.instruct.task import InstructTask
from mmjax.trees import PyTree


@dataclass(frozen=True)
class OwnTowerTask(InstructTask):
    """Adapters in a model's decoder and in its image tower, or its own weights, or both.

    In the frozen tree `language` is the decoder's, `image` all else: `vision`, the projector. A
    batch's `image` holds what the tower reads of m pictures, `PictureReader.inputs` of each; its
    `image_slot` is one of `PictureTokens.places`, counted in the row's own picture.
    """

    @staticmethod
    def seeing(vision: nn.Module, parts: Multimodal) -> nn.Module:
        """The whole model with an adapter in its image tower."""
        return typed.clone(vision, vision_hook=parts.vision)

    @property
    def _layers(self) -> tuple[int, int]:
        config = self.vision.config  # type: ignore[attr-defined]
        return config.text.num_layers, config.vision.num_layers

    def tower(self, image: PyTree) -> PyTree:
        """The image tower's own parameters."""
        return image["vision"]

    def joined(
        self,
        trainable: PyTree,
        adapters: PyTree,
        frozen: PyTree,
        words: Float[Array, "b l d"],
        batch: Batch,
    ) -> Joined:
        """As the model itself joins them."""
        params = whole_params(frozen)
        return join(
            self.vision, params, words, batch["image"], batch["text"]["image_slot"], adapters
        )


def whole_params(frozen: PyTree) -> PyTree:
    """A model's own tree of the parts that an `instruct` task's frozen tree keeps of it."""
    return {**frozen["image"], "language_model": frozen["language"]}

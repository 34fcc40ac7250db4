"""Settings of the `instruct` task; `mmjax.spec.Stage` checks them."""

from dataclasses import dataclass
from typing import Literal

from mmjax.errors import check


@dataclass(frozen=True)
class QuestionsSpec:
    """Questions about pictures: what the `instruct` task learns to answer.

    Attributes:
      source: `easy_vqa`, or `easy_vqa:FOLDER` for a folder in its layout.
      train_pictures: training pictures that are read, with all of their questions (0: all).
      val_pictures: training pictures held out for model selection, with all of their questions.
      test_pictures: test pictures that are read (0: all).
      per_picture: questions in a row of a batch that share a picture, which is then encoded once.
    """

    source: str = "easy_vqa"
    train_pictures: int = 0
    val_pictures: int = 50
    test_pictures: int = 0
    per_picture: int = 4

    def __post_init__(self) -> None:
        """Checks the sizes."""
        for name in ("train_pictures", "test_pictures"):
            check(getattr(self, name) >= 0, f"questions.{name}", getattr(self, name), "at least 0")
        for name in ("val_pictures", "per_picture"):
            check(getattr(self, name) >= 1, f"questions.{name}", getattr(self, name), "at least 1")


@dataclass(frozen=True)
class InstructSpec:
    """What the `instruct` task trains; see `mmjax.adapters.mma`, `lora` and `multimodal`.

    Attributes:
      adapter: in the language model: `routed` (mixture of modality adapters), `single` (the same
        without a router), `lora` or `none`.
      visual: whether adapters of the same kind sit in the vision transformer too.
      rank: width of the bottlenecks.
      scale: of what `routed` and `single` add.
      temperature: of the router.
      dropout: in the adapters while training.
      alpha: LoRA's scale is alpha / rank.
      targets: LoRA's maps in the language model; in the vision transformer it sits in `query` and
        `value`.
      taps: class tokens of the vision transformer that become tokens of the text.
      hidden: width inside the projection of class tokens.
      clip_routing: `per_image`, or the original's `first_in_batch`, whose outputs depend on the
        other pictures of a batch.
      router_weight_dtype: `float16` rounds routing weights as the original does.
      remat: compute the language model's layers again going backward, to save memory.
    """

    adapter: Literal["routed", "single", "lora", "none"] = "routed"
    visual: bool = True
    rank: int = 8
    scale: float = 1.0
    temperature: float = 10.0
    dropout: float = 0.1
    alpha: float = 16.0
    targets: tuple[str, ...] = ("query", "key", "value", "out")
    taps: int = 6
    hidden: int = 128
    clip_routing: Literal["per_image", "first_in_batch"] = "per_image"
    router_weight_dtype: Literal["float32", "float16"] = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        """Checks the sizes."""
        for name in ("rank", "taps", "hidden"):
            check(getattr(self, name) >= 1, f"instruct.{name}", getattr(self, name), "at least 1")
        check(self.temperature > 0, "instruct.temperature", self.temperature, "above 0")
        check(0 <= self.dropout < 1, "instruct.dropout", self.dropout, "in [0, 1)")

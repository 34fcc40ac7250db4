"""rsLoRA: LoRA whose scale does not fall with the rank as quickly."""

import dataclasses

from mmjax.adapters.lora import Lora


@dataclasses.dataclass(frozen=True)
class RsLora(Lora):
    """W x + alpha / sqrt(rank) * B A x at every target, with the settings of `Lora`.

    Source: Kalajdzievski 2023 (arXiv 2312.03732), equation 4; PEFT's `use_rslora`.
    """

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.rank**0.5

"""Pictures around which more stands in a text than the token that a chat template writes."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from tokenizers import Tokenizer

from mmjax.encoders.pictures import ImageLike


@runtime_checkable
class SpeltPictures(Protocol):
    """A family's picture constants where a text is changed before it is cut into tokens."""

    @property
    def config(self) -> Any:
        """The model's."""
        ...

    @property
    def most_tokens(self) -> int:
        """Tokens that no picture exceeds."""
        ...

    def spelt(self, text: str, tokenizer: Tokenizer) -> str:
        """A text in which every picture has its surroundings."""
        ...

    def mix(self, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[ImageLike]]) -> Any:
        """Texts with pictures where they have image tokens, as `llava_images.Mixed`."""
        ...

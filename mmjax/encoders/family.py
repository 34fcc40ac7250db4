"""All that loading needs to know about a kind of model; each family's file ends with its own."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from flax import linen as nn

from mmjax.trees import Rules
from mmjax.weights.key_rules import KeyRule

Modality: TypeAlias = Literal["text", "image"]


@runtime_checkable
class ImageConfig(Protocol):
    """What the config of a family that reads pictures must say."""

    @property
    def image_size(self) -> int:
        """Side of a picture, in pixels."""
        ...

    @property
    def num_channels(self) -> int:
        """Of a pixel."""
        ...

    def for_image_size(self, image_size: int) -> "ImageConfig":
        """The same model for pictures of another size."""
        ...


@dataclasses.dataclass(frozen=True)
class Family:
    """All that loading needs to know about a kind of model.

    The config of one that reads pictures is a `PictureConfig`; of one that reads texts it has
    `max_length`, `vocab_size` and `pad_token_id`. Its module takes `pixel_values` [b, h, w, c], or
    `input_ids` and `attention_mask` [b, l].
    """

    name: str
    modality: Modality
    config: Callable[[Mapping[str, Any]], Any]  # config.json -> the family's own config
    module: Callable[..., nn.Module]  # (config, dtype, param_dtype)
    key_table: Callable[[Any], Sequence[KeyRule]]
    ignored: re.Pattern[str]  # names without a rule that are passed over
    sharding: Callable[[Any], Rules]  # who holds what on a mesh
    pools: bool = False  # whether the module says itself what one item's embedding is
    any_size: bool = False  # whether positions are interpolated without being asked
    heads: Callable[[Any], Sequence[tuple[str, int]]] = lambda _: ()  # as `sharding.fit` takes them
    # Where a family reads its tokenizer or its picture constants in a way of its own:
    load_text: Callable[..., tuple[Any, Any]] | None = None  # (folder, config) -> (config, text)
    load_images: Callable[..., Any] | None = None  # (folder, config, said, image_size)


def inside(part: str, rules: Rules) -> Rules:
    """A part's sharding rules where it stands in a model under this name.

    The last one, of all that is left, is the model's own to say.
    """
    return tuple((f"{part}/{pattern}", spec) for pattern, spec in rules if pattern != ".*")


def always(rules: Rules) -> Callable[[Any], Rules]:
    """Sharding rules that do not depend on the config."""
    return lambda _: rules

"""A published LaVIN adapter in its frozen models."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.checks import foreign
from mmjax.data.wording import INSTRUCTION, Wording
from mmjax.encoders import Encoder, LanguageModel
from mmjax.encoders.llama import Llama
from mmjax.encoders.vision import VisionTransformer
from mmjax.errors import MmjaxError
from mmjax.interop.lavin import from_original, is_block, read_lavin
from mmjax.tasks import typed
from mmjax.tasks.instruct.answering import Answering
from mmjax.tasks.instruct.task import InstructTask

_LARGEST = 1e6  # of scales, temperatures and their inverses


def load_lavin(
    path: Path | str,
    language: LanguageModel,
    vision: Encoder,
    *,
    scale: float | None = None,
    temperature: float | None = None,
    rank: int = 8,
    taps: int = 6,
    hidden: int = 128,
    clip_routing: Literal["per_image", "first_in_batch"] = "per_image",
    router_weight_dtype: Literal["float32", "float16"] = "float32",
    question: str = INSTRUCTION,
) -> Answering:
    """A published adapter in its frozen models, ready to answer.

    Where it has adapters before feed-forward parts (`block`, `router_block`), its names say so.

    Pictures are prepared as the original does: squashed to a square, with ImageNet's mean and
    deviation instead of CLIP's.

    Args:
      path: a checkpoint; see `read_lavin`.
      language: the LLaMA or Vicuna that it was trained on.
      vision: the picture tower of CLIP ViT-L/14, on the same mesh.
      scale: of what the adapters add; 1 in all of the original's scripts. No tensor holds it.
      temperature: of the routers; 10 for the published 7B, 5 for the 13B. No tensor holds it, and
        another value silently changes the answers.
      rank: width of the bottlenecks.
      taps: class tokens that become words.
      hidden: width inside their projection.
      clip_routing: see `RepAdapter.routing`; the original runs `first_in_batch`.
      router_weight_dtype: the original rounds to `float16`.
      question: how a question was put while training; holds `{question}`.
        `mmjax.data.wording.PROBLEM` for the models of ScienceQA.

    Returns:
      What answers questions, with pictures or without.

    Raises:
      MmjaxError: scale or temperature is missing, a number out of its range, models of another
        kind, or a checkpoint that is damaged or was trained on models of other sizes.
    """
    if scale is None or temperature is None:
        name = "temperature" if scale is not None else "scale"
        raise MmjaxError(
            f"the {name} of {path} is missing: LaVIN's tensors do not hold it, and another value "
            "changes the answers; pass scale=1.0, and temperature=10.0 for the published 7B or "
            "5.0 for the 13B"
        )
    foreign.real("LaVIN's scale", scale, -_LARGEST, _LARGEST)
    foreign.real("LaVIN's temperature", temperature, 1 / _LARGEST, _LARGEST)
    for name, value in (("rank", rank), ("taps", taps), ("hidden", hidden)):
        foreign.integer(f"LaVIN's {name}", value, 1, foreign.WIDEST)
    if not isinstance(language.module, Llama) or not isinstance(vision.module, VisionTransformer):
        raise MmjaxError(
            f"a LaVIN adapter joins a LLaMA and a vision transformer, not {language.name!r} "
            f"({language.family}) and {vision.name!r} ({vision.family})"
        )
    tensors = read_lavin(path)
    routed = RepAdapter(
        rank=rank, scale=scale, temperature=temperature, router_weight_dtype=router_weight_dtype
    )
    towers = {
        tower: dataclasses.replace(routed, routing=routing, feed_forward=is_block(tensors, tower))
        for tower, routing in (("language", "first_token"), ("vision", clip_routing))
    }
    parts = Multimodal(towers["language"], towers["vision"], taps, hidden)
    expected = typed.shapes(parts.init, jax.random.key(0), language.params, vision.params)
    preprocess = vision.preprocess.imagenet_square()
    return Answering(
        InstructTask.of(parts, language.module, vision.module),
        language,
        dataclasses.replace(vision, preprocess=preprocess),
        from_original(tensors, expected),
        {"recipe": "LaVIN", "source": str(path), "scale": scale, "temperature": temperature},
        Wording(question, talks=question == INSTRUCTION),
    )

"""What a few-shot run can be refused for before its features are computed."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Float

from mmjax.adapters.hooks import start
from mmjax.data.library import Library
from mmjax.data.pipeline import check_enough
from mmjax.data.records import Corpus
from mmjax.data.splits import Split
from mmjax.encoders.base import Encoder
from mmjax.encoders.inserted import NoPlaceError, TokenHook
from mmjax.encoders.prompted import PromptLayout, vectors_of, words_of
from mmjax.errors import MmjaxError, setting
from mmjax.specs.spec import Stage
from mmjax.tasks import typed
from mmjax.tasks.adapting import adapter_in
from mmjax.tasks.prompts import classes
from mmjax.tasks.prompts import data as fewshot
from mmjax.tasks.prompts.coupled import transformer_in
from mmjax.tasks.run import Run
from mmjax.trees import PyTree


def _check_shots(
    stage: Stage, corpus: Corpus, split: Split, classes: list[str], shots: int
) -> None:
    """Refuses a few-shot stage without a test picture of its classes, or with too large a batch.

    Args:
      stage: a `prompts` stage.
      corpus: the items.
      split: as its seed draws it.
      classes: labels that are asked for.
      shots: pictures that are trained on, of all classes; 0 where none is.

    Raises:
      MmjaxError: names the setting.
    """
    if not any(item.label in classes for item in corpus.at(split["test"])):
        raise MmjaxError(
            f"no test picture of {corpus.name} has one of the classes {classes[:5]}; give more "
            f"items, or another {setting('pairs.test_fraction')}"
        )
    if shots:
        check_enough(stage.train.batch_size, shots)


def check_classes(stage: Stage, seed: int, library: Library) -> None:
    """Of `prompts`: enough pictures of enough classes, on both sides of the split."""
    corpus, split = library.corpus(stage.pairs), classes.split_of(stage, seed, library)
    trained, other = fewshot.classes_of(stage, corpus)
    shots = fewshot.shots_of(stage, corpus, split, trained, seed)
    _check_shots(stage, corpus, split, trained, len(shots))
    if other:
        _check_shots(stage, corpus, split, other, 0)
    for style in stage.fewshot.styles:
        library.corpus(dataclasses.replace(stage.pairs, styles=(style,), views=("plain",)))


def check_names(run: Run, library: Library) -> None:
    """Of `prompts`: names of classes and a context that the text tower can read."""
    stage, spec = run.stage, run.stage.prompts
    language = classes.language_of(stage, run.recipe.languages)
    corpus = library.corpus(stage.pairs)
    encoder = library.encoder(stage.encoders[stage.text_role])
    names = [corpus.labels[x][language] for part in fewshot.classes_of(stage, corpus) for x in part]
    templates = spec.templates if spec.method == "factorised" else ()
    if spec.couples:
        transformer_in(stage, "image", library)
        transformer_in(stage, stage.text_role, library)
    words_of(encoder, names)
    words_of(encoder, [t.replace("{}", n) for n in names for t in (spec.template, *templates)])
    if spec.in_tower:
        width = vectors_of(encoder.params, np.zeros(1, int)).shape[-1]
        fewshot.context_of(stage, encoder, width, run.seed)
        _check_places(stage, encoder, fewshot.layout_of(stage, encoder, names))


def _check_places(stage: Stage, encoder: Encoder, layout: PromptLayout) -> None:
    """Refuses tokens of an adapter that leave the longest prompt no place; nothing is computed.

    Raises:
      MmjaxError: names the setting.
    """
    adapter = adapter_in(stage, stage.text_role)
    if not isinstance(adapter, TokenHook):
        return
    hooked = encoder.with_hook(adapter)
    inputs = {"input_ids": layout.ids, "attention_mask": layout.mask}

    def read(params: PyTree) -> Float[Array, "c e"]:
        own = start(adapter, jax.random.key(0), dataclasses.replace(encoder, params=params))
        return hooked.apply(params, inputs, own).pooled

    try:
        typed.shapes(read, encoder.params)
    except NoPlaceError as error:
        length, most = layout.ids.shape[1], encoder.config.max_length
        place = f"adapters.{stage.text_role}.tokens"
        room = f"at most {most - length}" if length < most else f"no {type(adapter).__name__}"
        why = f"the longest prompt has {length} tokens, and text encoder {encoder.name!r} reads"
        raise MmjaxError(
            f"{setting(place)} is {adapter.tokens}; expected {room}: {why} {most}"
        ) from error

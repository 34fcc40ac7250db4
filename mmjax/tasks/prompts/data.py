"""A few-shot run put together: classes and shots, what is known of them, and what is asked."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mmjax import sharding
from mmjax.adapters.hooks import WeightAdapter
from mmjax.adapters.prompts import STD
from mmjax.data.library import Library
from mmjax.data.pipeline import Choices, Phase
from mmjax.data.tables import LabelTable, View, table_of
from mmjax.encoders.base import Encoder
from mmjax.encoders.prompted import PromptLayout, lay_out, vectors_of, words_of
from mmjax.errors import MmjaxError, setting
from mmjax.errors import check as check_setting
from mmjax.evals import EvalSet, Evaluator, Functions
from mmjax.evals.accuracy import harmonic_mean
from mmjax.interop.coop import load_context
from mmjax.losses.temperature import clamped  # pyright: ignore[reportUnknownVariableType]
from mmjax.rng import seed_for
from mmjax.sharding import to_host
from mmjax.specs.spec import Stage
from mmjax.tasks.adapting import tower_of, weights_in_step
from mmjax.tasks.base import below
from mmjax.tasks.prompts.classes import (
    classes_of,
    labels_of,
    language_of,
    shots_of,
    split_of,
)
from mmjax.tasks.prompts.coupled import couple, hook_in
from mmjax.tasks.prompts.joint import Joint, joint_of
from mmjax.tasks.prompts.pictures import eval_set_of, pictures_of, table_of_pictures
from mmjax.tasks.prompts.task import (
    PromptsTask,
    encode_prompts,
    make_prompts_task,
    words_of_tower,
)
from mmjax.tasks.run import Assembly, Run, StageData
from mmjax.trees import PyTree


@dataclass(frozen=True)
class ClassifiedSets:
    """One way to classify, and the pictures that it is asked about.

    Attributes:
      function: `score` of the trained system, `score_base` of the zero-shot one.
      sets: prefix of the figures' names -> pictures with their classes.
      new: prefixes of the sets whose classes were not trained on.
    """

    function: str
    sets: Mapping[str, EvalSet]
    new: tuple[str, ...] = ()

    @property
    def data(self) -> EvalSet:
        """The first set."""
        return next(iter(self.sets.values()))

    def run(self, evaluators: Sequence[Evaluator], functions: Functions) -> dict[str, float]:
        """Measures every set; a system that says nothing of new classes has no figures of them."""
        values: dict[str, float] = {}
        for prefix, data in self.sets.items():
            name = f"{self.function}_new" if prefix in self.new else self.function
            if name not in functions:
                continue
            for evaluator in evaluators:
                found = evaluator.run({**functions, "score": functions[name]}, data)
                values |= {f"{prefix}{metric}": value for metric, value in found.items()}
        if {"base_accuracy", "new_accuracy"} <= set(values):
            mean = harmonic_mean(values["base_accuracy"], values["new_accuracy"])
            values["harmonic_accuracy"] = mean
        return values


@dataclass(frozen=True)
class ShotsData(StageData):
    """What a `prompts` stage reads with one seed.

    Attributes:
      test: `adapted`, the trained system, and `base`, the zero-shot one.
      classes: names of the classes that are trained on.
    """

    test: Mapping[str, ClassifiedSets]
    classes: tuple[str, ...]


def know(
    stage: Stage,
    joint: Joint,
    names: Sequence[str],
    library: Library,
    seed: int,
    training: bool = False,
    support: Float[np.ndarray, "n e"] | None = None,
    kept: bool = True,
) -> dict[str, Any]:
    """What is known of classes: their names through the frozen tower, and how prompts are laid out.

    Args:
      stage: the method.
      joint: the dual encoder.
      names: of the classes, as texts.
      library: loads encoders.
      seed: draws General tokens that start from no words.
      training: whether what is trained begins here.
      support: embeddings of the shots, class by class; None outside training, and where pictures
        are embedded in the step.
      kept: whether the names' features stay in the cache; a visitor's are nobody else's business.

    Returns:
      `text` [c e], `logit_scale`; for `factorised` `prompts` [c k e]; for prompts in the tower
      `ids`, `mask`, `slots` [c l] and `embeddings` [c l d]; in training `context` [m d], `support`.

    Raises:
      MmjaxError: a name without tokens, or too long.
    """
    spec, role, encoder_spec = stage.prompts, stage.text_role, stage.encoders[stage.text_role]
    encoder, functions = library.encoder(encoder_spec), joint.functions(library)
    words_of(encoder, names)  # refuses names that cannot be read, whatever the method

    def read(templates: Sequence[str]) -> Float[np.ndarray, "c k e"]:
        texts = [t.replace("{}", name) for name in names for t in templates]
        words_of(encoder, texts)
        if kept:
            view = library.texts(role, encoder_spec, {"class names": texts}, True).view(texts)
        else:
            table = table_of(list(encoder.outputs(texts, encoder_spec.output)))
            view = View(table, np.arange(len(table)))
        return functions["embed_texts"](view).reshape(len(names), len(templates), -1)

    scale = joint.task.logit_scale(joint.frozen["base"], below(joint.frozen))
    known: dict[str, Any] = {"text": read([spec.template])[:, 0], "logit_scale": clamped(scale)}
    if support is not None:
        known["support"] = support
    if spec.method == "factorised":
        known["prompts"] = read(spec.templates)
    if spec.in_tower:
        layout = layout_of(stage, encoder, names)
        known |= dataclasses.asdict(layout)
        known["embeddings"] = vectors_of(encoder.params, layout.ids)
        if training:  # afterwards the adapter has its own, and CoOp's file may be gone
            known["context"] = context_of(stage, encoder, known["embeddings"].shape[-1], seed)
    return known


def layout_of(stage: Stage, encoder: Encoder, names: Sequence[str]) -> PromptLayout:
    """Where the parts of the prompts in the tower stand, one prompt a class.

    Raises:
      MmjaxError: a name without tokens, or a prompt that is too long.
    """
    spec = stage.prompts
    instance = spec.instance if spec.method == "structured" else 0
    kept = words_of(encoder, [spec.context])[0][spec.general :] if spec.keeps_words else ()
    return lay_out(encoder, names, spec.general, instance, spec.domain, spec.ending, kept)


def context_of(stage: Stage, encoder: Encoder, width: int, seed: int) -> Float[np.ndarray, "m d"]:
    """Where the General tokens start: at words, at what CoOp trained, or small and random.

    Raises:
      MmjaxError: it does not fit the tower or the number of tokens.
    """
    spec = stage.prompts
    if not spec.context:
        rng = np.random.default_rng(seed_for(seed, stage.name, "context"))
        return (STD * rng.normal(size=(spec.general, width))).astype(np.float32)
    if spec.is_imported:
        expected = f"'.': {spec.context} was trained in prompts that end so"
        check_setting(spec.ending == ".", "prompts.ending", spec.ending, expected)
        found = load_context(Path(spec.context))
        if found.ndim == 3:
            raise MmjaxError(
                f"{spec.context} holds a context for each of {len(found)} classes; General tokens "
                "are shared by all: give a checkpoint that CoOp trained with CSC=False"
            )
    else:
        (ids,) = words_of(encoder, [spec.context])
        ids = ids[: spec.general] if spec.keeps_words else ids
        found = to_host(vectors_of(encoder.params, np.asarray(ids))).astype(np.float32)
    if found.shape != (spec.general, width):
        raise MmjaxError(
            f"{setting('prompts.context')} {spec.context!r} gives {len(found)} vectors of width "
            f"{found.shape[-1]}, but there are {spec.general} General tokens of width {width}; set "
            f"--{setting('prompts.general')}={len(found)} or another context"
        )
    return found


def task_of(stage: Stage, joint: Joint, library: Library) -> PromptsTask:
    """The stage's task, with the adapters of its towers."""
    role = stage.text_role
    spec, inside = stage.encoders[role], hook_in(stage, role, library)
    encoder, read = library.encoder(spec), spec.output
    learns = isinstance(inside, WeightAdapter)
    return make_prompts_task(
        stage.prompts,
        stage.loss,
        lambda: encode_prompts(joint.task, encoder, read, inside),
        {name: tower_of(stage, name, library, None) for name in stage.adapters},
        pictures_of(stage, joint, library),
        words_of_tower(encoder, inside, role) if learns else None,
        functools.partial(couple, stage, library),
    )


def frozen_of(stage: Stage, joint: Joint, known: PyTree, library: Library) -> dict[str, PyTree]:
    """What a step reads, `known` being on the mesh: for methods on cached embeddings, no tower."""
    frozen: dict[str, PyTree] = {"known": known}
    if stage.prompts.in_tower:
        role = stage.text_role
        frozen |= {**joint.frozen, role: library.encoder(stage.encoders[role]).params}
        frozen |= weights_in_step(stage, library)
    return frozen


def assemble_prompts(run: Run, library: Library) -> Assembly[PromptsTask, ShotsData]:
    """Puts a stage together.

    Args:
      run: a stage with a seed.
      library: loads encoders and tables once.

    Returns:
      The assembly; classes are named in the language that the text encoder reads.

    Raises:
      MmjaxError: what `shots_of`, `joint_of` and `know` say.
    """
    stage, seed = run.stage, run.seed
    language = language_of(stage, run.recipe.languages)
    folder = run.base.adapter if run.base is not None else None
    joint = library.remember(
        ("joint", folder, *sorted(stage.encoders.items())), lambda: joint_of(stage, folder, library)
    )
    corpus, split = library.corpus(stage.pairs), split_of(stage, seed, library)
    trained, other = classes_of(stage, corpus)
    shots = shots_of(stage, corpus, split, trained, seed)
    table = table_of_pictures(stage, joint, folder, corpus, library)
    support = table.gather(shots)["features"] if stage.caches("image") else None

    def texts(labels: Sequence[str]) -> list[str]:
        return [corpus.labels[label][language] for label in labels]

    known = know(stage, joint, texts(trained), library, seed, True, support)
    frozen = frozen_of(stage, joint, sharding.place(known, library.mesh), library)
    labels = LabelTable(labels_of(corpus, shots, trained))
    phase = Phase(
        0,
        {
            "image": Choices.of(table, [[int(i)] for i in shots]),
            "label": Choices.of(labels, [[i] for i in range(len(shots))]),
        },
    )
    test = split["test"]
    sets = {"": eval_set_of(corpus, test, trained, table)}
    if other:
        new = know(stage, joint, texts(other), library, seed)
        frozen["new"] = sharding.place({**new, "untrained": jnp.zeros(())}, library.mesh)
        sets = {"base_": sets[""], "new_": eval_set_of(corpus, test, other, table)}
    for style in stage.fewshot.styles:
        pairs = dataclasses.replace(stage.pairs, styles=(style,), views=("plain",))
        drawn = library.corpus(pairs)
        chosen = {item.id for item in corpus.at(test)}
        items = np.asarray([i for i, item in enumerate(drawn.items) if item.id in chosen])
        styled = dataclasses.replace(stage, pairs=pairs)
        own = table_of_pictures(styled, joint, folder, drawn, library)
        sets[f"{style}_"] = eval_set_of(drawn, items, trained, own)
    systems = {
        "adapted": ClassifiedSets("score", sets, ("new_",)),
        "base": ClassifiedSets("score_base", sets, ("new_",)),
    }
    classes = tuple(texts(trained))
    # Of the first system training asks nothing: no held-out picture chooses a step.
    val = systems["adapted"]
    data = ShotsData(joint.towers, (phase,), val, split, corpus, systems, classes)
    on_card = {"classes": list(classes)}
    return Assembly(task_of(stage, joint, library), data, frozen, joint.card, on_card=on_card)

"""A few-shot run put together: classes and shots, what is known of them, and what is asked."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mmjax import sharding
from mmjax.adapters.prompts import STD
from mmjax.data.library import Library, TextBank
from mmjax.data.pipeline import Choices, Phase
from mmjax.data.records import Corpus
from mmjax.data.tables import FeatureTable, LabelTable, PatchTable, Table, table_of
from mmjax.encoders.base import Encoder
from mmjax.encoders.output import Tower
from mmjax.encoders.prompted import lay_out, vectors_of, words_of
from mmjax.errors import MmjaxError, setting
from mmjax.errors import check as check_setting
from mmjax.evals import EvalSet, Evaluator, Functions, View
from mmjax.evals.accuracy import harmonic_mean
from mmjax.interop.coop import load_context
from mmjax.losses.temperature import clamped  # pyright: ignore[reportUnknownVariableType]
from mmjax.rng import seed_for
from mmjax.sharding import to_host
from mmjax.specs.spec import Stage
from mmjax.tasks.base import DualEncoder, Task, below
from mmjax.tasks.dual_encoder.pretrained import PretrainedTask
from mmjax.tasks.dual_encoder.stacking import frozen_towers, load_base
from mmjax.tasks.prompts.classes import classes_of, labels_of, shots_of
from mmjax.tasks.prompts.task import PromptsTask, encode_prompts, make_prompts_task
from mmjax.tasks.published import Published
from mmjax.tasks.run import Assembly, Run, StageData
from mmjax.trees import PyTree


@dataclass(frozen=True)
class Classified:
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

    test: Mapping[str, Classified]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Joint:
    """A finished dual encoder: its space for pictures and names.

    Attributes:
      task: the dual encoder.
      frozen: its parameters, as `base` and perhaps `below`.
      card: of the finished run; None where the towers share a space of their own.
      towers: role -> tower.
    """

    task: DualEncoder
    frozen: dict[str, PyTree]
    card: Mapping[str, Any] | None
    towers: Mapping[str, Tower]

    def functions(self, library: Library) -> Functions:
        """`embed_images` and `embed_texts`, bound."""
        return Published(self.task, library.mesh).bind(self.frozen["base"], below(self.frozen))


def joint_of(stage: Stage, folder: Path | None, library: Library) -> Joint:
    """The dual encoder that a stage stands on.

    Args:
      stage: names the encoders.
      folder: of the base's adapter; None where the encoders share a space already.
      library: loads encoders.

    Returns:
      The dual encoder, its parameters on the mesh.

    Raises:
      MmjaxError: encoders that share no space.
    """
    if folder is None:
        return joint_on(stage, None, {}, None, library)
    return joint_on(
        stage, *load_base(folder, frozen_towers(stage, library), library.mesh), library=library
    )


def joint_on(
    stage: Stage,
    task: Task | None,
    frozen: dict[str, PyTree],
    card: Mapping[str, Any] | None,
    library: Library,
) -> Joint:
    """The same where the base is loaded already, or where there is none.

    Raises:
      MmjaxError: encoders that share no space.
    """
    towers = frozen_towers(stage, library)
    if task is not None:
        assert isinstance(task, DualEncoder)
        return Joint(task, frozen, card, towers)
    widths = {role: tower.width for role, tower in towers.items()}
    scale = library.encoder(stage.encoders["image"]).logit_scale
    if widths["image"] != widths["text"] or scale is None:
        raise MmjaxError(
            f"{setting('base')} is empty, and {setting('encoders')} share no space (widths "
            f"{widths}, logit_scale {scale}); give both towers of one CLIP, or a base"
        )
    own = PretrainedTask(towers["image"], towers["text"], scale)
    base = sharding.place(own.init(jax.random.key(0), {}, {}), library.mesh)
    return Joint(own, {"base": base}, None, towers)


def know(
    stage: Stage,
    joint: Joint,
    names: Sequence[str],
    library: Library,
    seed: int,
    support: Float[np.ndarray, "n e"] | None = None,
) -> dict[str, Any]:
    """What is known of classes: their names through the frozen tower, and how prompts are laid out.

    Args:
      stage: the method.
      joint: the dual encoder.
      names: of the classes, as texts.
      library: loads encoders.
      seed: draws General tokens that start from no words.
      support: embeddings of the shots, class by class; None outside training.

    Returns:
      `text` [c e], `logit_scale`; for `factorised` `prompts` [c k e]; for prompts in the tower
      `ids`, `mask`, `slots` [c l] and `embeddings` [c l d]; in training `context` [m d], `support`.

    Raises:
      MmjaxError: a name without tokens, or too long.
    """
    spec, encoder_spec = stage.prompts, stage.encoders["text"]
    encoder, functions = library.encoder(encoder_spec), joint.functions(library)
    words_of(encoder, names)  # refuses names that cannot be read, whatever the method

    def read(templates: Sequence[str]) -> Float[np.ndarray, "c k e"]:
        texts = [t.replace("{}", name) for name in names for t in templates]
        words_of(encoder, texts)
        bank: TextBank = library.texts("text", encoder_spec, {"class names": texts}, True)
        embedded = functions["embed_texts"](bank.view(texts))
        return embedded.reshape(len(names), len(templates), -1)

    scale = joint.task.logit_scale(joint.frozen["base"])
    known: dict[str, Any] = {"text": read([spec.template])[:, 0], "logit_scale": clamped(scale)}
    if support is not None:
        known["support"] = support
    if spec.method == "factorised":
        known["prompts"] = read(spec.templates)
    if spec.in_tower:
        instance = spec.instance if spec.method == "structured" else 0
        layout = lay_out(encoder, names, spec.general, instance, spec.domain, spec.ending)
        known |= dataclasses.asdict(layout)
        known["embeddings"] = vectors_of(encoder.params, layout.ids)
        if support is not None:  # afterwards the adapter has its own, and CoOp's file may be gone
            known["context"] = context_of(stage, encoder, known["embeddings"].shape[-1], seed)
    return known


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
        found = to_host(vectors_of(encoder.params, np.asarray(ids))).astype(np.float32)
    if found.shape != (spec.general, width):
        raise MmjaxError(
            f"{setting('prompts.context')} {spec.context!r} gives {len(found)} vectors of width "
            f"{found.shape[-1]}, but there are {spec.general} General tokens of width {width}; set "
            f"--{setting('prompts.general')}={len(found)} or another context"
        )
    return found


def task_of(stage: Stage, joint: Joint, library: Library) -> PromptsTask:
    """The stage's task."""
    encoder = library.encoder(stage.encoders["text"])
    return make_prompts_task(stage.prompts, stage.loss, lambda: encode_prompts(joint.task, encoder))


def frozen_of(stage: Stage, joint: Joint, known: Mapping[str, Any], library: Library) -> PyTree:
    """What a step reads: for methods on cached embeddings, no text tower."""
    frozen: dict[str, PyTree] = {"known": sharding.place(dict(known), library.mesh)}
    if stage.prompts.in_tower:
        frozen |= {**joint.frozen, "text": library.encoder(stage.encoders["text"]).params}
    return frozen


def assemble(run: Run, library: Library) -> Assembly[PromptsTask, ShotsData]:
    """Puts a stage together.

    Args:
      run: a stage with a seed.
      library: loads encoders and tables once.

    Returns:
      The assembly; classes are named in the recipe's second language.

    Raises:
      MmjaxError: what `shots_of`, `joint_of` and `know` say.
    """
    stage, seed, language = run.stage, run.seed, run.recipe.languages[1]
    folder = run.base.adapter if run.base is not None else None
    joint = library.remember(
        ("joint", folder, *sorted(stage.encoders.items())), lambda: joint_of(stage, folder, library)
    )
    corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, seed)
    trained, other = classes_of(stage, corpus)
    shots = shots_of(stage, corpus, split, trained, seed)
    table = _table(stage, joint, folder, corpus, library)
    support = table.gather(shots)["features"]

    def texts(labels: Sequence[str]) -> list[str]:
        return [corpus.labels[label][language] for label in labels]

    known = know(stage, joint, texts(trained), library, seed, support)
    frozen = frozen_of(stage, joint, known, library)
    labels = LabelTable(labels_of(corpus, shots, trained))
    phase = Phase(
        0,
        {
            "image": Choices.of(table, [[int(i)] for i in shots]),
            "label": Choices.of(labels, [[i] for i in range(len(shots))]),
        },
    )
    test = split["test"]
    sets = {"": _eval_set(corpus, test, trained, table)}
    if other:
        new = know(stage, joint, texts(other), library, seed)
        frozen["new"] = sharding.place({**new, "untrained": jnp.zeros(())}, library.mesh)
        sets = {"base_": sets[""], "new_": _eval_set(corpus, test, other, table)}
    for style in stage.fewshot.styles:
        pairs = dataclasses.replace(stage.pairs, styles=(style,), views=("plain",))
        drawn = library.corpus(pairs)
        chosen = {item.id for item in corpus.at(test)}
        items = np.asarray([i for i, item in enumerate(drawn.items) if item.id in chosen])
        styled = dataclasses.replace(stage, pairs=pairs)
        own = _table(styled, joint, folder, drawn, library)
        sets[f"{style}_"] = _eval_set(drawn, items, trained, own)
    systems = {
        "adapted": Classified("score", sets, ("new_",)),
        "base": Classified("score_base", sets, ("new_",)),
    }
    classes = tuple(texts(trained))
    # Of the first system training asks nothing: no held-out picture chooses a step.
    val = systems["adapted"]
    data = ShotsData(joint.towers, (phase,), val, split, corpus, systems, classes)
    on_card = {"classes": list(classes)}
    return Assembly(task_of(stage, joint, library), data, frozen, joint.card, on_card=on_card)


def _eval_set(
    corpus: Corpus, items: Int[np.ndarray, " k"], classes: Sequence[str], table: Table
) -> EvalSet:
    """Those of the items whose class is asked for."""
    labels = labels_of(corpus, items, classes)
    view = View(table, np.asarray(items)[labels >= 0])
    if not len(view):
        raise MmjaxError(
            f"no test picture of {corpus.name} has one of the classes {list(classes)[:5]}; give "
            "more items, or another config.pairs.test_fraction"
        )
    return EvalSet(view, view, labels[labels >= 0], view, view)


def _table(
    stage: Stage, joint: Joint, folder: Path | None, corpus: Corpus, library: Library
) -> Table:
    """Every item's embedding in the joint space, the mean of its views, perhaps with patches."""
    spec, pairs = stage.encoders["image"], stage.pairs
    key = ("embedded", folder, spec, corpus.name, corpus.fingerprint, len(corpus.items))

    def embed() -> FeatureTable:
        bank = library.images(spec, pairs, cached=True)
        every = bank.view(np.arange(len(corpus.items)))
        return table_of(list(joint.functions(library)["embed_images"](every)))

    embeddings = library.remember((*key, pairs.views), embed)
    if not stage.prompts.reads_patches:
        return embeddings
    tokens = dataclasses.replace(spec, output="tokens")
    bank = library.images(tokens, dataclasses.replace(pairs, views=("plain",)), cached=True)
    assert isinstance(bank.table, FeatureTable)
    rows = np.asarray([rows[0] for rows in bank.rows])
    return PatchTable(embeddings, bank.table, rows)

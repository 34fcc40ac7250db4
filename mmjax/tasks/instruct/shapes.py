"""An `instruct` run as shapes alone; see `mmjax.tasks.planned`.

Rows are as long as the recipe lets them be, a quarter of each is an answer, and each batch has
pictures: the largest program of the run.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax.adapters.rep_adapter import bind, routing_table
from mmjax.data.library import Library
from mmjax.encoders.base import Encoder
from mmjax.encoders.language_model import IMAGE, LanguageModel
from mmjax.encoders.llava import ReadsPictures
from mmjax.sharding import check_batch
from mmjax.specs.spec import Stage
from mmjax.tasks import typed
from mmjax.tasks.instruct.assembly import shardings_of
from mmjax.tasks.instruct.build import make_instruct, parts_of
from mmjax.tasks.instruct.easy_vqa import check_divides
from mmjax.tasks.instruct.task import InstructTask, frozen_tree
from mmjax.tasks.instruct.towers import encoders_of
from mmjax.tasks.planned import (
    Asked,
    Decoder,
    Planned,
    length_of,
    lying,
    raw_inputs,
    rounded,
    shaped,
    whole,
)
from mmjax.tasks.run import Run
from mmjax.trees import PyTree

ANSWERED = 32  # rows that are answered together


def planned(run: Run, base: Planned | None, library: Library) -> Planned:
    """What the run's programs are made for; it stands on nothing."""
    stage, mesh = run.stage, library.mesh
    check_batch(stage.train.batch_size, mesh)
    check_divides(stage, library)
    language, vision = encoders_of(stage, library)
    task = make_instruct(stage, language, vision)
    frozen = frozen_tree(language, vision)
    shapes = typed.shapes(task.init, jax.random.key(0), frozen, {})
    trainable = lying(shapes, shardings_of(task, frozen, mesh, run.recipe.mesh.fsdp))
    rows, some = stage.train.batch_size, rounded(ANSWERED, mesh)
    length = length_of(stage.encoders["language"], language)
    functions = task.functions()
    read = _batch(stage, vision, mesh, some, length)
    programs = {"log_prob": Asked(functions["log_prob"], read, some)}
    decoder = None
    if stage.questions.answering == "greedy" and stage.questions.evaluation == "scienceqa":
        decoder = _decoder(stage, task, language, trainable, length, mesh)
    return Planned(
        task,
        task.unchosen(frozen),
        trainable,
        _batch(stage, vision, mesh, rows, length),
        "tokens",
        rows * length,
        programs,
        decoder=decoder,
    )


def _batch(stage: Stage, vision: Encoder, mesh: Mesh, rows: int, length: int) -> PyTree:
    answers = 1 << max(length // 4 - 1, 0).bit_length()

    def ints(*dims: int) -> jax.ShapeDtypeStruct:
        return shaped(mesh, dims, jnp.int32)

    text = {
        "input_ids": ints(rows, length),
        "image_slot": ints(rows, length),
        "attention_mask": ints(rows, length),
        "columns": ints(rows, answers),
        "labels": ints(rows, answers),
        "weights": shaped(mesh, (rows, answers)),
        "modality": ints(rows),
    }
    pictures = rows // stage.questions.per_picture
    if stage.train.cache_features:
        config = vision.config
        taps = len(parts_of(stage.instruct).tapped(config.num_layers))
        image = {"class_tokens": shaped(mesh, (pictures, taps, config.hidden_size))}
    elif isinstance(vision.module, ReadsPictures):
        image = {
            name: shaped(mesh, (pictures, *one.shape), one.dtype)
            for name, one in vision.module.largest().items()
        }
        if vision.config.text.rope.sections:
            text["positions"] = ints(rows, length, 3)
    else:
        image = raw_inputs(stage.encoders["image"], vision, mesh, pictures)
    return {"text": text, "image": image}


def _decoder(
    stage: Stage,
    task: InstructTask,
    language: LanguageModel,
    trainable: PyTree,
    length: int,
    mesh: Mesh,
) -> Decoder:
    """The language model as `mmjax.tasks.instruct.respond` asks it, of one modality."""
    model, new = language.with_hook(task.parts.language), stage.questions.max_new_tokens

    def bound(trainable: PyTree, params: PyTree) -> PyTree:
        own = trainable.get("language")
        if not task.parts.routed:
            return own
        read = dataclasses.replace(model, params=params)
        table = routing_table(read, own, trainable["modality"]["embedding"])
        return bind(own, table, IMAGE)

    adapters = typed.shapes(bound, trainable, model.params)
    return Decoder(model, whole(adapters, mesh), ANSWERED, length - new, new)

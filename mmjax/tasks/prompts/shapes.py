"""A `prompts` run as shapes alone; see `mmjax.tasks.planned`."""

import functools
from typing import Any

import jax.numpy as jnp

from mmjax.data.library import Library, encode_in_step
from mmjax.encoders.prompted import word_table
from mmjax.sharding import check_batch
from mmjax.specs.spec import Stage
from mmjax.tasks import typed
from mmjax.tasks.base import DualEncoder, below
from mmjax.tasks.planned import (
    Asked,
    Planned,
    extracted,
    features_of,
    initial,
    length_of,
    raw_inputs,
    rounded,
    shaped,
    standing_on,
)
from mmjax.tasks.prompts.data import frozen_of, task_of
from mmjax.tasks.prompts.joint import Joint, joint_on, own_space
from mmjax.tasks.published import BATCH
from mmjax.tasks.run import Run
from mmjax.trees import PyTree

CLASSES = 1000  # ImageNet's, the most of the papers' data sets
# Tokens of a name, and of what stands around a prompt's parts: special ones and the ending.
NAME, FRAME = 8, 3
ASSUMED = f"{CLASSES:,} classes with names of {NAME} tokens; their number stands in the data"


def planned(run: Run, base: Planned | None, library: Library) -> Planned:
    """What the run's programs are made for, with as many classes as ImageNet has.

    Args:
      run: a stage with a seed.
      base: of the run below; None where the towers share a space.
      library: its encoders have shapes for weights, on the mesh.
    """
    stage, mesh = run.stage, library.mesh
    check_batch(stage.train.batch_size, mesh)
    joint = _joint(stage, base, library)
    task = task_of(stage, joint, library)
    texts = features_of(stage, stage.text_role, library, rounded(1, mesh))
    embed = joint.task.functions()["embed_texts"]
    width = typed.shapes(embed, joint.frozen["base"], below(joint.frozen), texts).shape[-1]
    frozen = frozen_of(stage, joint, _known(stage, width, library), library)

    def pictures(rows: int) -> dict[str, Any]:
        return _pictures(stage, width, library, rows)

    rows, some = stage.train.batch_size, rounded(BATCH, mesh)
    batch = {"image": pictures(rows), "label": {"label": shaped(mesh, (rows,), jnp.int32)}}
    return Planned(
        task,
        frozen,
        initial(task, frozen, batch, mesh),
        batch if stage.train.steps else {},
        "pictures",
        rows,
        {"score": Asked(task.functions()["score"], pictures(some), some)},
        extracted(stage, library),
        assumed=(ASSUMED,),
    )


def _joint(stage: Stage, base: Planned | None, library: Library) -> Joint:
    """The dual encoder below."""
    if base is not None:
        assert isinstance(base.task, DualEncoder)
        return joint_on(stage, base.task, standing_on(base), None, library)
    own = own_space(stage, library)
    return joint_on(stage, own, {"base": initial(own, {}, {}, library.mesh)}, None, library)


def _pictures(stage: Stage, width: int, library: Library, rows: int) -> dict[str, Any]:
    """Pictures as a method reads them: embedded, perhaps with patches, or in every view."""
    spec, mesh = stage.encoders["image"], library.mesh
    encoder = library.encoder(spec)
    pixels = raw_inputs(spec, encoder, mesh, rows)
    if not stage.caches("image"):
        shape, views = pixels["pixel_values"].shape, len(stage.pairs.views)
        return {"pixel_values": shaped(mesh, (rows, views, *shape[1:]))}
    found: dict[str, Any] = {"features": shaped(mesh, (rows, width))}
    if stage.prompts.reads_patches:
        read = functools.partial(encode_in_step, encoder, spec.output, patches=True)
        said = typed.shapes(read, encoder.params, pixels)
        beside = ((name, said[name]) for name in ("patches", "patch_mask"))
        found |= {name: shaped(mesh, leaf.shape, leaf.dtype) for name, leaf in beside}
    return found


def _known(stage: Stage, width: int, library: Library) -> PyTree:
    """As `mmjax.tasks.prompts.data.know` has it in training, whole everywhere."""
    spec, mesh = stage.prompts, library.mesh

    def array(*shape: int, dtype: Any = jnp.float32) -> Any:
        return shaped(mesh, shape, dtype, split=False)

    known = {"text": array(CLASSES, width), "logit_scale": array()}
    if stage.caches("image"):
        known["support"] = array(CLASSES * stage.fewshot.shots, width)
    if spec.method == "factorised":
        known["prompts"] = array(CLASSES, len(spec.templates), width)
    if spec.in_tower:
        own = stage.encoders[stage.text_role]
        encoder = library.encoder(own)
        words = typed.shapes(word_table, encoder.params)
        learnt = spec.general + (spec.instance if spec.method == "structured" else 0)
        length = min(learnt + NAME + FRAME, length_of(own, encoder))
        for name in ("ids", "mask", "slots"):
            known[name] = array(CLASSES, length, dtype=jnp.int32)
        known["embeddings"] = array(CLASSES, length, words.shape[-1], dtype=words.dtype)
        known["context"] = array(spec.general, words.shape[-1])
    return known

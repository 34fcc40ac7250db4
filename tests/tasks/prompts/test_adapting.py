"""Adapters in both towers of a few-shot method: they start at nothing, and nothing else moves."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import optim, sharding, trees
from mmjax.commands.recipes import load_recipe
from mmjax.data.library import Library
from mmjax.data.tables import View, table_of
from mmjax.encoders.prompted import vectors_of
from mmjax.errors import MmjaxError
from mmjax.plan.encoders import ShapesLibrary
from mmjax.specs.data import PairsSpec
from mmjax.specs.prompts import PromptMethod, PromptSpec
from mmjax.specs.recipe import resolve_recipe
from mmjax.specs.spec import EncoderSpec, Stage, TrainSpec
from mmjax.tasks.prompts import shapes
from mmjax.tasks.prompts.data import frozen_of, know, task_of
from mmjax.tasks.prompts.joint import joint_on
from mmjax.tasks.prompts.pictures import PicturesInStep
from mmjax.tasks.run import Run
from tests.adapters.programs import dots
from tests.adapters.test_table import KINDS
from tests.run.test_language_clip import write_clip_tokenizer
from tests.tasks.steps import run

B, VIEWS, SIDE = 8, 2, 20
NAMES = ["w9", "w8 w7", "w5 w6 w4"]
LORA = {"kind": "lora", "rank": 2}
BOTH = {"image": LORA, "text": LORA}


@pytest.fixture(scope="module")
def clip(tmp_path_factory, write_folder):
    folder = write_folder(tmp_path_factory.mktemp("few") / "clip", "clip_tiny")
    write_clip_tokenizer(folder / "tokenizer.json")
    return str(folder)


@pytest.fixture(scope="module")
def library():
    return Library(sharding.make_mesh(devices=jax.devices()[:1]), ("en", "en"))


@dataclasses.dataclass(frozen=True)
class Made:
    """A stage put together without any data.

    Attributes:
      task: with the adapters.
      bare: the same without them, which embeds pictures in the step too.
      frozen: of both.
      batch: of pictures in two views.
    """

    task: Any
    bare: Any
    frozen: Any
    batch: Any


def stage_of(clip: str, method: PromptMethod = "coop", **prompts: Any) -> Stage:
    """A stage without adapters."""
    return Stage(
        "prompts",
        "prompts",
        {role: EncoderSpec(clip, tower=role) for role in ("image", "text")},
        PairsSpec("none", views=("mirror", "plain")),
        prompts=PromptSpec(method, **{"general": 2, "instance": 2, "ending": "", **prompts}),
        train=TrainSpec(batch_size=B, select="none"),
    )


@pytest.fixture(scope="module")
def make(clip, library):
    """Returns `make(adapters, method, **prompts)`."""

    def build(adapters: Any, method: PromptMethod = "coop", **prompts: Any) -> Made:
        bare = stage_of(clip, method, **prompts)
        stage = dataclasses.replace(bare, adapters=adapters)
        joint = joint_on(stage, None, {}, None, library)
        known = know(stage, joint, NAMES, library, 0, training=True)
        frozen = frozen_of(stage, joint, sharding.place(known, library.mesh), library)
        task, plain = (task_of(s, joint, library) for s in (stage, bare))
        if task.pictures is not None:
            tower = dataclasses.replace(task.pictures.tower, begin=None, adapted=None)
            plain = dataclasses.replace(plain, pictures=PicturesInStep(joint.task, tower))
        pixels = np.random.default_rng(0).normal(size=(B, VIEWS, SIDE, SIDE, 3))
        image: dict[str, Any] = {"pixel_values": jnp.asarray(pixels, jnp.float32)}
        if task.pictures is None:
            image = {"features": plain_features(joint, library, stage, pixels)}
        image["row"] = jnp.arange(B, dtype=jnp.int32)
        label = {"label": jnp.arange(B, dtype=jnp.int32) % len(NAMES)}
        return Made(task, plain, frozen, {"image": image, "label": label})

    return build


def plain_features(joint: Any, library: Library, stage: Stage, pixels: Any) -> Any:
    """What the cached path gives a method: the mean view's unit vector."""
    encoder = library.encoder(stage.encoders["image"])
    flat = pixels.reshape(-1, SIDE, SIDE, 3).astype(np.float32)
    table = table_of(list(np.asarray(encoder.apply(encoder.params, {"pixel_values": flat}).pooled)))
    rows = np.arange(len(flat)).reshape(B, VIEWS)
    return jnp.asarray(joint.functions(library)["embed_images"](View(table, rows)))


def settings_of(name: str) -> dict[str, Any]:
    """A kind of the table as a recipe has it."""
    return {"kind": name, **dataclasses.asdict(KINDS[name].adapter)}


@pytest.mark.parametrize(
    ("method", "adapters"),
    [("structured", {}), ("factorised", {}), ("linear_probe", {}), ("maple", {}), ("coop", BOTH)],
)
def test_a_plan_has_the_shapes_of_a_run(method, adapters, make, clip, library, monkeypatch):
    made, stage = make(adapters, method), stage_of(clip, method)
    known = made.frozen["known"]
    monkeypatch.setattr(shapes, "CLASSES", len(NAMES))
    if "ids" in known:  # whose length is that of the longest name
        learnt = len(known["context"]) + (2 if method == "structured" else 0)
        monkeypatch.setattr(shapes, "NAME", known["ids"].shape[1] - learnt - shapes.FRAME)
    recipe = resolve_recipe(load_recipe("prompts_coop", {}).to_dict())
    own = Run(recipe, dataclasses.replace(stage, adapters=adapters), 0, Path())
    found = shapes.planned(own, None, ShapesLibrary(library.mesh, ("en", "en")))
    planned = {name: x for name, x in found.frozen["known"].items() if name != "support"}
    assert sizes(found.frozen | {"known": planned}) == sizes(made.frozen)
    if made.task.pictures is not None:
        image = {k: v for k, v in made.batch["image"].items() if k != "row"}
        assert sizes(found.batch) == sizes({**made.batch, "image": image})
        trainable = jax.eval_shape(made.task.init, jax.random.key(0), made.frozen, made.batch)
        assert sizes(found.trainable) == sizes(trainable)


def sizes(tree: Any) -> dict[str, Any]:
    """Path -> shape and dtype."""
    return {path: (x.shape, jnp.dtype(x.dtype)) for path, x in trees.named_leaves(tree)}


def test_no_gradient_of_a_frozen_kernel_is_computed(make):
    made = make(BOTH)
    trainable = jax.jit(made.task.init)(jax.random.key(0), made.frozen, made.batch)
    gradient = jax.grad(made.task.loss, has_aux=True)
    program = jax.make_jaxpr(gradient)(trainable, made.frozen, made.batch, jax.random.key(0))
    towers = {role: made.frozen[role]["layers"] for role in BOTH}
    kernels = {x.shape[-2:] for p, x in trees.named_leaves(towers) if "kernel" in p}
    own = {x.shape[-2:] for x in jax.tree.leaves(trainable)}
    known = {s[::-1] for s in kernels if s not in own and s[::-1] not in own}
    assert known
    assert not dots(program.jaxpr) & known


@pytest.mark.parametrize("method", ["structured", "cocoop", "kgcoop"])
def test_before_training_it_says_what_cached_pictures_say(method, make, clip, library):
    """Views are averaged, patches are those of the plain view, as the cache has them."""
    made, cached = make(BOTH, method), make({"text": LORA}, method)
    trainable = jax.jit(made.task.init)(jax.random.key(0), made.frozen, made.batch)
    image = dict(cached.batch["image"])
    if method == "structured":
        encoder = library.encoder(EncoderSpec(clip, tower="image"))
        plain = made.batch["image"]["pixel_values"][:, 0]  # the table puts it first
        tokens = encoder.apply(encoder.params, {"pixel_values": plain}).tokens
        mask = jnp.ones(tokens.shape[:2], bool).at[:, 0].set(False)
        image |= {"patches": tokens, "patch_mask": mask}
        trainable["attention"]["gate"] += 1.0  # so that patches count
    said = jax.jit(made.task.functions()["score"])(trainable, made.frozen, made.batch["image"])
    without = {**trainable, "adapters": {"text": trainable["adapters"]["text"]}}
    score = jax.jit(cached.task.functions()["score"])
    np.testing.assert_allclose(said, score(without, cached.frozen, image), rtol=2e-5, atol=2e-5)


def test_words_of_a_tower_that_learns_whole_are_read_as_they_are_learnt(make):
    made = make({"text": {"kind": "full"}}, "coop")
    trainable = jax.jit(made.task.init)(jax.random.key(0), made.frozen, made.batch)
    state, _ = run(made.task, trainable, made.frozen, made.batch, 2)
    own = state.trainable["adapters"]["text"]
    moved = np.abs(own["token_embeddings"]["embedding"]).max(axis=1)
    assert {9, 8, 7, 5, 6, 4} <= set(np.flatnonzero(moved > 1e-6).tolist())  # the names' words

    # What it says is what a tower with these weights says.
    merged = jax.tree.map(jnp.add, made.frozen["text"], own)
    ids = np.asarray(made.frozen["known"]["ids"])
    known = {**made.frozen["known"], "embeddings": vectors_of(merged, ids)}
    frozen = {**made.frozen, "text": merged, "known": known}
    inputs = made.batch["image"]
    said = jax.jit(made.task.functions()["score"])(state.trainable, made.frozen, inputs)
    own = {"general": state.trainable["general"]}
    alone = jax.jit(made.bare.functions()["score"])(own, frozen, inputs)
    np.testing.assert_allclose(said, alone, rtol=1e-5, atol=1e-5)


def test_dropout_is_for_training_alone(make):
    made = make({role: {**LORA, "dropout": 0.5} for role in BOTH})
    trainable = jax.jit(made.task.init)(jax.random.key(0), made.frozen, made.batch)
    trainable = jax.tree.map(lambda x: x + 0.1, trainable)
    loss = jax.jit(lambda key: made.task.loss(trainable, made.frozen, made.batch, key)[0])
    assert float(loss(jax.random.key(0))) == float(loss(jax.random.key(0)))
    assert float(loss(jax.random.key(0))) != float(loss(jax.random.key(1)))
    score = jax.jit(made.task.functions()["score"])
    said = score(trainable, made.frozen, made.batch["image"])
    picked = jax.nn.log_softmax(said)[jnp.arange(B), made.batch["label"]["label"]]
    assert float(loss(jax.random.key(0))) != pytest.approx(float(-picked.mean()), abs=1e-4)


def test_a_step_does_not_depend_on_the_mesh(make, mesh):
    made = make(BOTH)
    trainable = jax.jit(made.task.init)(jax.random.key(0), made.frozen, made.batch)
    _, alone = run(made.task, trainable, made.frozen, made.batch, 3)
    many, host = mesh(8), jax.device_get(made.batch)
    here, fixed = (sharding.place(jax.device_get(x), many) for x in (trainable, made.frozen))
    _, together = run(made.task, here, fixed, sharding.place_batch(host, many), 3)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(set(alone)) == 3


@pytest.mark.parametrize(
    ("adapters", "method", "message"),
    [
        ({"image": LORA}, "tip_adapter", r"config\.adapters\.image is 'lora'; .*computed once"),
        ({"text": LORA}, "linear_probe", r"config\.adapters\.text is 'lora'; .*'linear_probe'"),
        ({"image": LORA}, "factorised", r"structured, coop, cocoop, kgcoop\) take one"),
        ({"image": {**LORA, "targets": ("fc9",)}}, "coop", r"LoRA targets \('fc9',\): choose"),
        ({"text": {**LORA, "rank": 400}}, "coop", "is larger than"),
        ({"text": {"kind": "bitfit", "targets": ("no",)}}, "coop", "no parameter has such a path"),
    ],
)
def test_what_does_not_fit_is_refused(adapters, method, message, make):
    with pytest.raises(MmjaxError, match=message):
        make(adapters, method)


# Every kind in one of the towers, in turn: what costs a program more.
CELLS = [(name, ("image", "text")[i % 2]) for i, name in enumerate(KINDS)]


@pytest.mark.parametrize(("name", "role"), CELLS)
def test_a_kind_in_a_tower(name, role, make):
    made = make({role: settings_of(name)})
    before = trees.fingerprint(made.frozen)
    trainable = jax.jit(made.task.init)(jax.random.key(0), made.frozen, made.batch)
    assert set(trainable) == {"general", "adapters"}
    assert set(trainable["adapters"]) == {role}
    score, bare = (jax.jit(t.functions()["score"]) for t in (made.task, made.bare))
    inputs = made.batch["image"]
    said = score(trainable, made.frozen, inputs)
    alone = bare({"general": trainable["general"]}, made.frozen, inputs)
    if KINDS[name].same:
        np.testing.assert_array_equal(said, alone)
    else:
        assert np.abs(said - alone).max() > 1e-4

    # Whatever learns of it moves, and nothing that is frozen does.
    state, losses = run(made.task, trainable, made.frozen, made.batch, 3)
    assert np.isfinite(losses).all()
    old, learns = dict(trees.named_leaves(trainable)), optim.trained(trainable["adapters"])
    still = {
        path for path, x in trees.named_leaves(state.trainable) if np.array_equal(x, old[path])
    }
    silent = {p for p in still if "key/" in p and p.endswith(("bias", "shift"))}  # of a softmax
    fixed = {f"adapters/{p}" for p, learnt in trees.named_leaves(learns) if not learnt}
    assert still - silent == fixed
    assert trees.fingerprint(made.frozen) == before
    # The zero-shot classifier beside it is the frozen model's, whatever was learnt.
    base = jax.jit(made.task.functions()["score_base"])
    np.testing.assert_array_equal(
        base(state.trainable, made.frozen, inputs), base(trainable, made.frozen, inputs)
    )

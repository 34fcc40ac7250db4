"""Adapters in the encoders of a projection: they start at nothing, and nothing frozen moves."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import optim, sharding, trees
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.specs.projection import ProjectionSpec
from mmjax.specs.spec import EncoderSpec, Stage, TrainSpec
from mmjax.tasks.adapting import tower_of, weights_in_step
from mmjax.tasks.projection.task import make_projection
from tests.adapters.programs import dots
from tests.adapters.test_table import KINDS
from tests.tasks.steps import run

B, SIDE, L = 8, 20, 5
LORA = {"kind": "lora", "rank": 2}
BOTH = {"image": LORA, "text": LORA}


@pytest.fixture(scope="module")
def sources(tmp_path_factory, write_folder):
    folder = tmp_path_factory.mktemp("projected")
    goldens = {"image": "dinov2_tiny", "text": "bert_tiny"}
    return {role: str(write_folder(folder / role, name)) for role, name in goldens.items()}


@pytest.fixture(scope="module")
def library():
    return Library(sharding.make_mesh(devices=jax.devices()[:1]), ("en", "en"))


@pytest.fixture(scope="module")
def make(sources, library):
    """Returns `make(adapters, **projection)` -> (task, the same without adapters, frozen)."""

    def build(adapters: Any, **projection: Any) -> tuple[Any, Any, Any]:
        spec = ProjectionSpec(**{"loss": "supcon", "hidden": 8, "out_dim": 4, **projection})
        stage = Stage(
            "projection",
            "projection",
            {role: EncoderSpec(source) for role, source in sources.items()},
            projection=spec,
            adapters=adapters,
            train=TrainSpec(batch_size=B, select="none"),
        )
        towers = {role: tower_of(stage, role, library, None) for role in sources}
        bare = dataclasses.replace(stage, adapters={})
        plain = {role: tower_of(bare, role, library, None) for role in sources}
        frozen = {role: library.encoder(spec).params for role, spec in stage.encoders.items()}
        assert set(weights_in_step(stage, library)) == set(adapters)
        return make_projection(stage, towers, None), make_projection(bare, plain, None), frozen

    return build


def batch_of(single: bool = False, **present: Any) -> dict[str, Any]:
    """What both encoders read; side by side for a single projector."""
    rng = np.random.default_rng(0)
    ids = np.concatenate(
        [np.ones((B, 1)), rng.integers(4, 50, (B, L - 2)), np.full((B, 1), 2)], axis=1
    )
    inputs: dict[str, dict[str, Any]] = {
        "image": {"pixel_values": rng.normal(size=(B, SIDE, SIDE, 3)).astype(np.float32)},
        "text": {"input_ids": ids.astype(np.int32), "attention_mask": np.ones((B, L), np.int32)},
    }
    label = {"label": jnp.arange(B, dtype=jnp.int32) % 3}
    inputs = jax.tree.map(jnp.asarray, inputs)
    if single:
        joined = {f"{role}/{name}": x for role, own in inputs.items() for name, x in own.items()}
        return {"joined": joined, "label": label}
    for role, mask in present.items():
        inputs[role]["present"] = jnp.asarray(mask)
    return {**inputs, "label": label}


def settings_of(name: str) -> dict[str, Any]:
    return {"kind": name, **dataclasses.asdict(KINDS[name].adapter)}


def test_no_gradient_of_a_frozen_kernel_is_computed(make):
    task, _, frozen = make(BOTH)
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch_of())
    gradient = jax.grad(task.loss, has_aux=True)
    program = jax.make_jaxpr(gradient)(trainable, frozen, batch_of(), jax.random.key(0))
    kernels = {x.shape[-2:] for p, x in trees.named_leaves(frozen) if "kernel" in p}
    own = {x.shape[-2:] for x in jax.tree.leaves(trainable)}
    known = {s[::-1] for s in kernels if s not in own and s[::-1] not in own}
    assert known
    assert not dots(program.jaxpr) & known


def test_a_single_projector_reads_encoders_that_learn(make):
    task, bare, frozen = make(BOTH, mode="single")
    batch = batch_of(single=True)
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch)
    assert set(trainable) == {"joined", "adapters"}
    embed = jax.jit(task.functions()["embed_joined"])
    said = embed(trainable, frozen, batch["joined"])

    # The same as of features that are computed beforehand, in the order of the encoders.
    apart = batch_of()
    parts = [bare.parts[r](frozen, apart[r])["features"] for r in ("image", "text")]
    cached = {"features": jnp.concatenate(parts, axis=1)}
    alone = jax.jit(bare.functions()["embed_joined"])({"joined": trainable["joined"]}, {}, cached)
    np.testing.assert_allclose(said, alone, atol=1e-5)
    state, _ = run(task, trainable, frozen, batch)
    for role in BOTH:
        (old, new) = (
            t["adapters"][role]["query"]["up"]["kernel"] for t in (trainable, state.trainable)
        )
        assert np.abs(new - old).max() > 1e-4
    assert np.abs(embed(state.trainable, frozen, batch["joined"]) - said).max() > 1e-3


def test_an_example_without_a_picture_takes_no_part(make):
    task, _, frozen = make({"image": LORA})
    there = np.arange(B) != 3
    batch = batch_of(image=there)
    other = {**batch, "image": {**batch["image"]}}
    other["image"]["pixel_values"] = batch["image"]["pixel_values"].at[3].add(5.0)
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch)
    gradient = jax.jit(jax.grad(lambda t, b: task.loss(t, frozen, b, jax.random.key(1))[0]))
    first, second = (gradient(trainable, b)["adapters"] for b in (batch, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), first, second)
    whole = gradient(trainable, batch_of())["adapters"]
    assert (
        max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (first, whole)), strict=True))
        > 1e-4
    )
    said = jax.jit(task.functions()["embed_images"])(trainable, frozen, batch["image"])
    assert not said[3].any()
    assert said[there].any(axis=1).all()


def test_a_step_does_not_depend_on_the_mesh(make, mesh):
    task, _, frozen = make(BOTH)
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch_of())
    _, alone = run(task, trainable, frozen, batch_of())
    many = mesh(8)
    split = dataclasses.replace(task, mesh=many)
    here, fixed = (sharding.place(jax.device_get(x), many) for x in (trainable, frozen))
    batch = sharding.place_batch(jax.device_get(batch_of()), many)
    _, together = run(split, here, fixed, batch)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(set(alone)) == 3


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ({"image": {**LORA, "targets": ("fc9",)}}, r"LoRA targets \('fc9',\): choose from"),
        ({"text": {**LORA, "rank": 400}}, "is larger than"),
        ({"joined": LORA}, "adapters of the encoders"),
    ],
)
def test_what_does_not_fit_is_refused(adapters, message, make):
    with pytest.raises(MmjaxError, match=message):
        make(adapters)


# Every kind in one of the encoders, in turn; those that its prompts' tests leave out.
CELLS = [(name, ("text", "image")[i % 2]) for i, name in enumerate(KINDS)]
# A norm that follows at once sums y + 0 in another order.
LAST_BIT = {("ia3", "text")}


@pytest.mark.parametrize(("name", "role"), CELLS)
def test_a_kind_in_an_encoder(name, role, make):
    task, bare, frozen = make({role: settings_of(name)})
    batch, before = batch_of(), trees.fingerprint(frozen)
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch)
    assert set(trainable) == {"image", "text", "adapters"}
    assert set(trainable["adapters"]) == {role}
    function = {"image": "embed_images", "text": "embed_texts"}[role]
    without = {k: v for k, v in trainable.items() if k != "adapters"}
    said, alone = (
        np.asarray(jax.jit(t.functions()[function])(learnt, frozen, batch[role]))
        for t, learnt in ((task, trainable), (bare, without))
    )
    if not KINDS[name].same:
        assert np.abs(said - alone).max() > 1e-4
    elif (name, role) in LAST_BIT:
        np.testing.assert_allclose(said, alone, atol=1e-6)
    else:
        np.testing.assert_array_equal(said, alone)

    state, losses = run(task, trainable, frozen, batch)
    assert np.isfinite(losses).all()
    old, learns = dict(trees.named_leaves(trainable)), optim.trained(trainable["adapters"])
    still = {
        path for path, x in trees.named_leaves(state.trainable) if np.array_equal(x, old[path])
    }
    unread = ("mask_token", "pooler")  # weights that no output of these encoders depends on
    silent = {
        path
        for path in still
        if ("key/" in path and path.endswith(("bias", "shift"))) or any(w in path for w in unread)
    }
    assert still - silent == {
        f"adapters/{p}" for p, learnt in trees.named_leaves(learns) if not learnt
    }
    assert trees.fingerprint(frozen) == before

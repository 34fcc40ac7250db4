"""The prompts task over a real tiny text tower: what a step reads, changes and leaves alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import trees
from mmjax.encoders import load_encoder
from mmjax.encoders.output import Tower
from mmjax.encoders.prompted import lay_out, vectors_of
from mmjax.losses.distill import unit
from mmjax.sharding import place, place_batch
from mmjax.specs.dual_encoder import HeadSpec, LossSpec
from mmjax.specs.prompts import PromptSpec
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.dual_encoder.contrastive import ContrastiveTask
from mmjax.tasks.prompts.task import encode_prompts, make_prompts_task

B, C, SHOTS, D_IMAGE, WIDTH = 8, 3, 4, 12, 32
NAMES = ["w9", "w8 w7", "w5 w6 w4"]
HEAD = HeadSpec(hidden=(8,), out_dim=6, members=2)
BASE = ContrastiveTask(Tower("image", D_IMAGE), Tower("text", WIDTH), HEAD, HEAD, LossSpec())
SMALL: Any = {"general": 2, "instance": 2, "attention": 4, "bottleneck": 4}
SPECS = {
    "structured": PromptSpec("structured", **SMALL, anchor=1.0),
    "in chunks": PromptSpec("structured", **SMALL, anchor=1.0, chunk=5),
    "without names": PromptSpec("structured", **SMALL, domain=False),
    "coop": PromptSpec("coop", **SMALL),
    "cocoop": PromptSpec("cocoop", **SMALL),
    "kgcoop": PromptSpec("kgcoop", **SMALL, anchor=8.0),
    "factorised": PromptSpec("factorised", **SMALL),
    "linear_probe": PromptSpec("linear_probe"),
    "tip_adapter": PromptSpec("tip_adapter", beta=3.0),
    "clip_adapter": PromptSpec("clip_adapter", bottleneck=4),
    "task_residual": PromptSpec("task_residual"),
    "linear_probe_plus": PromptSpec("linear_probe_plus"),
    "clap": PromptSpec("clap", anchor=1.0),
}


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, write_folder):
    return load_encoder(write_folder(tmp_path_factory.mktemp("e") / "bert", "bert_tiny"))


@pytest.fixture(scope="module")
def make(encoder):
    """Returns `make(spec)`: (task, trainable, frozen, batch)."""
    example = {"image": {"features": normal(0, B, D_IMAGE)}, "text": {"features": normal(1, B, 32)}}
    base = jax.jit(BASE.init)(jax.random.key(7), {}, example)

    def build(spec: PromptSpec) -> tuple[Any, Any, Any, Any]:
        e = HEAD.members * HEAD.out_dim
        known: dict[str, Any] = {
            "text": unit(normal(2, C, e)),
            "prompts": unit(normal(3, C, 4, e)),
            "support": unit(normal(4, C * SHOTS, e)),
            "logit_scale": jnp.float32(2.0),
        }
        frozen: dict[str, Any] = {"known": known}
        if spec.in_tower:
            instance = spec.instance if spec.method == "structured" else 0
            layout = lay_out(encoder, NAMES, spec.general, instance, spec.domain)
            known |= {k: jnp.asarray(v) for k, v in dataclasses.asdict(layout).items()}
            known["embeddings"] = vectors_of(encoder.params, layout.ids)
            known["context"] = 0.02 * normal(5, spec.general, WIDTH)
            frozen |= {"text": encoder.params, "base": base}
        image = {"features": unit(normal(6, B, e)), "row": jnp.arange(B, dtype=jnp.int32)}
        image |= {"patches": normal(8, B, 5, 7), "patch_mask": jnp.ones((B, 5), bool)}
        batch = {"image": image, "label": {"label": jnp.arange(B, dtype=jnp.int32) % C}}
        task = make_prompts_task(spec, LossSpec(), lambda: encode_prompts(BASE, encoder))
        return task, jax.jit(task.init)(jax.random.key(0), frozen, batch), frozen, batch

    return build


def run(task, trainable, frozen, batch, steps, lr=3e-2):
    tx = optax.adamw(lr)
    state = create(jax.tree.map(jnp.copy, trainable), tx, jax.random.key(1))
    step = make_train_step(task, tx)
    losses = []
    for _ in range(steps):
        state, found = step(state, frozen, batch)
        losses.append(float(found["loss"].total))
    return state, losses, step


@pytest.mark.parametrize("name", sorted({*SPECS} - {"in chunks", "coop"}))  # as two of the others
def test_prompt_gradients_reach_prompts_alone_and_the_loss_falls(name, make):
    task, trainable, frozen, batch = make(SPECS[name])
    before = trees.fingerprint(frozen)
    state, losses, step = run(task, trainable, frozen, batch, steps=8)
    assert losses[-1] < losses[0]
    assert trees.fingerprint(frozen) == before
    assert step._cache_size() == 1
    leaves = {
        "structured": {"general", "instance", "attention"},
        "without names": {"general", "instance", "attention", "names"},
        "cocoop": {"general", "meta"},
        "kgcoop": {"general"},
        "factorised": {"shares", "residual", "instance", "attention", "prompt_keys"},
    }.get(name)
    assert leaves is None or set(trainable) == leaves
    old = dict(trees.named_leaves(trainable))
    still = [p for p, x in trees.named_leaves(state.trainable) if np.array_equal(x, old[p])]
    assert still == []


def test_before_the_first_step_the_picture_has_no_say_bit_by_bit(make):
    for name in ("structured", "factorised"):
        task, trainable, frozen, batch = make(SPECS[name])
        score = jax.jit(task.functions()["score"])
        inputs = batch["image"]
        other = {**inputs, "patches": inputs["patches"][::-1] * 2}
        logits = score(trainable, frozen, inputs)
        np.testing.assert_array_equal(logits, score(trainable, frozen, other))
        moved = jax.tree.map(lambda x: x + 0.3, trainable)
        after = score(moved, frozen, inputs)
        assert not np.array_equal(after, score(moved, frozen, other))


def test_an_open_gate_is_all_that_the_picture_needs(make):
    """The exact form at step 0 is one prompt a class, read through the tower."""
    task, trainable, frozen, batch = make(SPECS["structured"])
    logits = jax.jit(task.functions()["score"])(trainable, frozen, batch["image"])
    image, known = batch["image"]["features"], frozen["known"]
    learnt = jnp.concatenate([trainable["general"], trainable["instance"]])
    slots = np.asarray(known["slots"])
    vectors = np.where(
        slots[..., None] >= 0, np.asarray(learnt)[np.maximum(slots, 0)], known["embeddings"]
    )
    encode = jax.jit(task.classifier.encode)
    text = encode(frozen, jnp.asarray(vectors), known["ids"], known["mask"])
    expected = np.exp(2.0) * np.asarray(image @ text.T)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_chunks_give_the_same_step(make):
    first, second = (run(*make(SPECS[n]), steps=2)[1] for n in ("structured", "in chunks"))
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_methods_on_cached_texts_have_no_text_op_in_their_step(make):
    exact = task_flops(*make(SPECS["structured"]))
    for name in ("factorised", "linear_probe", "tip_adapter", "task_residual", "clap"):
        task, trainable, frozen, batch = make(SPECS[name])
        assert set(frozen) == {"known"}  # there is no tower that a step could read
        assert not {"embeddings", "ids"} & set(frozen["known"])
        if name == "factorised":
            assert task_flops(task, trainable, frozen, batch) < exact / 20


def task_flops(task, trainable, frozen, batch) -> float:
    gradient = jax.jit(jax.grad(lambda t: task.loss(t, frozen, batch, jax.random.key(0))[0]))
    cost = gradient.lower(trainable).compile().cost_analysis()
    assert cost is not None
    return cost["flops"]


def test_a_step_does_not_depend_on_the_mesh(make, mesh):
    task, trainable, frozen, batch = make(SPECS["factorised"])
    _, alone, _ = run(task, trainable, frozen, batch, steps=3)
    many = mesh(8)
    host = jax.tree.map(np.asarray, batch)
    placed = place(trainable, many), place(frozen, many), place_batch(host, many)
    _, together, _ = run(task, *placed, steps=3)
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_only_what_names_no_class_of_its_own_is_asked_about_new_classes(make):
    new = {name for name, spec in SPECS.items() if spec.names_new_classes}
    assert new == {
        *("structured", "in chunks", "coop", "cocoop", "kgcoop", "factorised", "clip_adapter")
    }
    task, trainable, frozen, batch = make(SPECS["factorised"])
    other = {**frozen["known"], "untrained": jnp.zeros(()), "prompts": frozen["known"]["prompts"]}
    asked = {**frozen, "new": other}
    moved = jax.tree.map(lambda x: x + 0.1, trainable)
    found = task.functions()["score_new"](moved, asked, batch["image"])
    bare = {**moved, "residual": jnp.zeros_like(moved["residual"])}
    plain = task.functions()["score"](bare, frozen, batch["image"])
    np.testing.assert_allclose(found, plain, rtol=1e-5)
    assert "score_new" not in make(SPECS["clap"])[0].functions()

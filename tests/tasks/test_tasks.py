"""Behaviours that every task must have, one row a task."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import trees
from mmjax.adapters.language import LanguageAdapter, masked_mean
from mmjax.adapters.projection import ProjectionHead
from mmjax.encoders.output import Tower
from mmjax.losses.consolidation import Prior
from mmjax.losses.temperature import MAX_LOGIT_SCALE
from mmjax.optim import make_optimizer
from mmjax.sharding import place, place_batch
from mmjax.specs.dual_encoder import (
    AdapterSpec,
    ContinualSpec,
    HeadSpec,
    LossSpec,
    ResidualSpec,
    WeightingSpec,
)
from mmjax.specs.projection import ProjectionSpec
from mmjax.specs.spec import OptimSpec
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.dual_encoder.contrastive import ContrastiveTask
from mmjax.tasks.dual_encoder.domain import DomainTask
from mmjax.tasks.dual_encoder.language import LanguageTask
from mmjax.tasks.projection.task import ProjectionTask

D_IMAGE, D_TEXT, D_FOREIGN, B, L = 12, 10, 8, 16, 4
ROWS = jnp.arange(B, dtype=jnp.int32)
HEAD = HeadSpec(hidden=(16,), out_dim=6, dropout=0.1, hidden_dropout=0.1, members=2)
BASE = ContrastiveTask(Tower("image", D_IMAGE), Tower("text", D_TEXT), HEAD, HEAD, LossSpec())
ADAPTER = AdapterSpec(
    width=8, num_heads=2, num_layers=2, input_dropout=0.1, skip=True, skip_hidden=8
)


def language(kind: Any = "distill_mse", **adapter):
    spec = AdapterSpec(**{**vars(ADAPTER), **adapter})
    return LanguageTask(Tower("foreign", D_FOREIGN), BASE, spec, LossSpec(kind=kind))


LINEAR = LanguageTask(
    Tower("foreign", D_FOREIGN), BASE, AdapterSpec(kind="linear"), LossSpec("distill_mse")
)


def domain(tune: Any = "adapter", kind: Any = "none", pairs: Any = "focal", beta=0.0):
    residual = ResidualSpec(tune, bottleneck=8, dropout=0.1)
    weighting = WeightingSpec(pairs, beta=beta)
    return DomainTask(BASE, residual, weighting, ContinualSpec(kind), LossSpec())


def projection(loss: Any, **settings):
    towers = {"image": Tower("image", D_IMAGE), "text": Tower("text", D_TEXT)}
    sizes: dict[str, Any] = {"hidden": 16, "out_dim": 12, "dropout": 0.1, "normalize": True}
    return ProjectionTask(towers, ProjectionSpec(loss, **sizes, **settings))


PAIRS = ("image", "text")
TASKS = {
    "contrastive": (BASE, ("image", "text")),
    "distill_mse": (language(), ("foreign", "text")),
    "distill_cosine": (language("distill_cosine"), ("foreign", "text")),
    "encoder space": (language(space="encoder"), ("foreign", "text")),
    "linear": (LINEAR, ("foreign", "text")),
    "language contrastive": (language("contrastive"), ("foreign", "image")),
    "two_stage, first": (language("two_stage"), ("foreign", "text")),
    "two_stage, second": (language("two_stage"), ("foreign", "image")),
    "domain": (domain(), PAIRS),
    "domain, hard": (domain(pairs="loss_softmax", beta=0.5), PAIRS),
    "domain, heads": (domain("heads"), PAIRS),
    "domain, ewc": (domain("heads", "ewc"), PAIRS),
    "projection": (projection("pairwise_bce"), (*PAIRS, "label")),
    "projection, supcon": (projection("supcon", standardize=True), (*PAIRS, "label")),
    "projection, infonce": (projection("infonce"), (*PAIRS, "label")),
    "domain, distill": (domain(kind="distill"), (*PAIRS, "general_image", "general_text")),
}


def inputs(role, seed=0):
    rng = np.random.default_rng([seed, len(role)])
    if role == "label":
        return {"label": jnp.arange(B, dtype=jnp.int32) % 4}
    if role == "foreign":
        mask = np.arange(L) < rng.integers(1, L + 1, B)[:, None]
        tokens = rng.normal(size=(B, L, D_FOREIGN)).astype(np.float32) * mask[..., None]
        return {"features": jnp.asarray(tokens), "mask": jnp.asarray(mask), "row": ROWS}
    width = {"image": D_IMAGE, "text": D_TEXT}[role.removeprefix("general_")]
    features = jnp.asarray(rng.normal(size=(B, width)).astype(np.float32))
    return {"features": features, "row": ROWS}


@pytest.fixture(params=TASKS)
def setup(request):
    task, roles = TASKS[request.param]
    frozen = {"base": BASE.init(jax.random.key(7), {}, {r: inputs(r) for r in ("image", "text")})}
    batch = {r: inputs(r) for r in roles}
    trainable = task.init(jax.random.key(0), frozen, batch)
    if isinstance(task, DomainTask) and task.continual.kind == "ewc":
        frozen["prior"] = Prior(trainable, jax.tree.map(jnp.ones_like, trainable))
    return task, trainable, frozen, batch


def run(task, trainable, frozen, batch, steps, lr=3e-3):
    tx = optax.adamw(lr)
    state = create(jax.tree.map(jnp.copy, trainable), tx, jax.random.key(1))
    step = make_train_step(task, tx)
    losses = []
    for _ in range(steps):
        state, found = step(state, frozen, batch)
        losses.append(float(found["loss"].total))
    return state, losses, step


def test_the_loss_falls_on_a_batch_it_sees_again(setup):
    _, losses, _ = run(*setup, steps=60)
    assert losses[-1] < 0.8 * losses[0]


def test_only_trainable_leaves_change_and_all_of_them_do(setup):
    task, trainable, frozen, batch = setup
    before = trees.fingerprint(frozen)
    state, _, _ = run(task, trainable, frozen, batch, steps=3)
    assert trees.fingerprint(frozen) == before
    still = [
        path
        for (path, old), new in zip(
            trees.named_leaves(trainable), jax.tree.leaves(state.trainable), strict=True
        )
        if np.array_equal(old, new)
    ]
    # In its first stage `two_stage` has no use for the temperature of the second yet; a key's bias
    # shifts all scores of a query alike, so softmax gives it no gradient but rounding.
    assert [p for p in still if p != "logit_scale" and not p.endswith("key/bias")] == []


def test_the_same_key_gives_the_same_step_and_another_key_other_noise(setup):
    task, trainable, frozen, batch = setup
    one, two, other = (task.loss(trainable, frozen, batch, jax.random.key(k))[0] for k in (3, 3, 4))
    assert one == two
    random = not (isinstance(task, LanguageTask) and task.adapter.kind == "linear")
    # A residual adapter's last layer starts at zero: whatever noise is below it is not seen.
    random = random and not (isinstance(task, DomainTask) and task.residual.tune == "adapter")
    assert (one != other) == random


def test_a_step_compiles_once(setup):
    *_, step = run(*setup, steps=3)
    assert step._cache_size() == 1


def test_published_functions_give_finite_unit_vectors(setup):
    task, trainable, frozen, _ = setup
    for name, function in task.functions().items():
        role = "image" if name.endswith("images") else "text"
        if isinstance(task, LanguageTask) and name == "embed_texts":
            role = "foreign"
        found = function(trainable, frozen, inputs(role))
        assert found.shape == (B, HEAD.members * HEAD.out_dim)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "setup",
    ["contrastive", "language contrastive", "two_stage, second", "domain", "domain, heads"],
    indirect=True,
)
def test_a_learnt_temperature_is_kept_in_range_and_reported_as_used(setup):
    task, trainable, frozen, batch = setup
    heads = trainable.get("heads", trainable)
    heads["logit_scale"] = jnp.float32(9.0)
    tx, _ = make_optimizer(OptimSpec(), trainable, 10)
    state = create(jax.tree.map(jnp.copy, trainable), tx, jax.random.key(1))
    state, found = make_train_step(task, tx)(state, frozen, batch)
    assert found["temperature"].total / found["temperature"].examples == pytest.approx(0.01)
    moved: Any = state.trainable
    assert moved.get("heads", moved)["logit_scale"] == np.float32(MAX_LOGIT_SCALE)


@pytest.mark.parametrize(
    "setup",
    ["contrastive", "distill_mse", "language contrastive", "domain", "projection"],
    indirect=True,
)
def test_a_step_does_not_depend_on_the_mesh(setup, mesh):
    task, trainable, frozen, batch = setup
    _, alone, _ = run(task, trainable, frozen, batch, steps=3)
    many = mesh(8)
    host = jax.tree.map(np.asarray, batch)
    placed = place(trainable, many), place(frozen, many), place_batch(host, many)
    _, together, _ = run(dataclasses.replace(task, mesh=many), *placed, steps=3)
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("setup", ["contrastive", "domain, hard"], indirect=True)
def test_no_device_ever_holds_a_whole_tower(setup, mesh):
    task, trainable, frozen, batch = setup
    many = mesh(8)
    batch = place_batch(jax.tree.map(np.asarray, batch), many)
    placed = place(trainable, many), place(frozen, many)
    loss = jax.jit(jax.grad(dataclasses.replace(task, mesh=many).loss, has_aux=True))
    compiled = loss.lower(*placed, batch, jax.random.key(0)).compile().as_text() or ""
    assert "collective-permute" in compiled
    assert not [
        line for line in compiled.splitlines() if re.search(rf"= f32\[{B},.*all-gather", line)
    ]


@pytest.mark.parametrize("setup", ["contrastive", "language contrastive", "domain"], indirect=True)
def test_equal_texts_are_positives_of_each_other(setup):
    task, trainable, frozen, batch = setup
    role = task.text_role
    features = batch[role]["features"]
    twin = {"features": features.at[1].set(features[0])}
    if "mask" in batch[role]:
        twin["mask"] = batch[role]["mask"].at[1].set(batch[role]["mask"][0])

    def probability(rows):
        inputs = {**batch, role: {**twin, "row": rows}}
        return task.loss(trainable, frozen, inputs, jax.random.key(0))[1]["probability"].total

    assert probability(ROWS.at[1].set(0)) > 1.01 * probability(ROWS)


def initial(module, *inputs) -> Any:
    return module.init(jax.random.key(0), *inputs)


def applied(module, params, *inputs) -> Any:
    return module.apply(params, *inputs)


def test_the_adapter_does_not_see_padding():
    adapter = LanguageAdapter(6, 8, 2, 2, 4, 0.1)
    tokens, mask, _ = inputs("foreign").values()
    params = initial(adapter, tokens, mask)
    wider = jnp.pad(tokens, ((0, 0), (0, 4), (0, 0)), constant_values=9.0)
    found = applied(adapter, params, wider, jnp.pad(mask, ((0, 0), (0, 4))))
    np.testing.assert_allclose(found, applied(adapter, params, tokens, mask), atol=1e-5)


def test_members_share_the_transformer_and_differ_in_their_maps():
    adapter = LanguageAdapter(6, 8, 1, 2, 4, 0.1, skip=True, skip_hidden=5, members=3)
    tokens, mask, _ = inputs("foreign").values()
    params = initial(adapter, tokens, mask)
    found = applied(adapter, params, tokens, mask)
    assert found.shape == (3, len(tokens), 6)
    assert sorted(params["params"]["skip"]) == ["member_0", "member_1", "member_2"]
    assert len({float(abs(member).sum()) for member in found}) == 3


def test_a_text_without_tokens_stays_finite():
    tokens, mask = jnp.ones((2, 3, 4)), jnp.zeros((2, 3), bool)
    np.testing.assert_array_equal(masked_mean(tokens, mask), 0)


def test_sizes_of_the_adapter_are_those_of_the_talk():
    """One layer at width 768 is about 7.1 M, the two linear maps 0.6 M and 0.4 M."""
    adapter = LanguageAdapter(512, 768, 1, 12, 4, 0.1)
    shapes = jax.eval_shape(
        adapter.init, jax.random.key(0), jnp.zeros((1, 2, 768)), jnp.ones((1, 2), bool)
    )["params"]
    assert trees.count(shapes["layer_0"]) == 7_087_872
    assert trees.count(shapes["in"]) == 768 * 768 + 768
    assert trees.count(shapes["out"]) == 768 * 512 + 512


def test_a_head_without_hidden_layers_is_linear_in_the_normalised_input():
    head = ProjectionHead((), 5)
    x = inputs("image")["features"]
    params = initial(head, x)
    kernel, bias = (params["params"]["member_0_out"][n] for n in ("kernel", "bias"))
    normal = (x - x.mean(0, keepdims=True)) / (x.std(0, keepdims=True) + 1e-3)
    np.testing.assert_allclose(applied(head, params, x), normal @ kernel + bias[None], atol=1e-5)


def test_a_tower_without_encoder_explains_itself():
    with pytest.raises(ValueError, match="the text tower has no encoder"):
        Tower("text", 4)({}, {"input_ids": jnp.ones((1, 2), jnp.int32)})

"""A base that nothing is trained for: the checkpoint's own space, and an adapter learns in it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import trees
from mmjax.encoders.output import Tower
from mmjax.errors import MmjaxError
from mmjax.losses import distill
from mmjax.specs.dual_encoder import AdapterSpec, LossSpec, ResidualSpec
from mmjax.specs.spec import EncoderSpec, Stage
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.base import DualEncoder, TextSpace
from mmjax.tasks.dual_encoder.language import LanguageTask
from mmjax.tasks.dual_encoder.pretrained import PretrainedTask
from mmjax.tasks.dual_encoder.stacking import make_task

D, B, L = 6, 16, 4
TOWERS = {
    "image": Tower("image", D, logit_scale=4.6),
    "text": Tower("text", D, logit_scale=4.6),
    "foreign": Tower("foreign", 8),
}
ENCODERS = {role: EncoderSpec("somewhere") for role in ("image", "text")}


def stage(task="pretrained", **changes) -> Stage:
    return Stage(task, task, ENCODERS, **changes)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def base():
    task = make_task(stage(), TOWERS)
    assert isinstance(task, PretrainedTask)
    return task


def features(width, seed, length=0):
    shape = (B, length, width) if length else (B, width)
    values = jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
    found = {"features": values, "row": jnp.arange(B, dtype=jnp.int32)}
    return found | ({"mask": jnp.ones((B, L), bool)} if length else {})


def test_its_tree_is_the_temperature_of_the_checkpoint(base):
    assert isinstance(base, DualEncoder)
    assert isinstance(base, TextSpace)
    tree = base.init(jax.random.key(0), {}, {})
    assert list(tree) == ["logit_scale"]
    assert base.logit_scale(tree) == pytest.approx(4.6)
    unknown = make_task(stage(), {role: Tower(role, D) for role in ENCODERS})
    assert isinstance(unknown, PretrainedTask)
    assert unknown.initial_logit_scale == pytest.approx(-np.log(0.07))


def test_it_publishes_the_towers_own_embeddings(base):
    tree = base.init(jax.random.key(0), {}, {})
    batch = {role: features(D, seed) for seed, role in enumerate(("image", "text"))}
    for name, role in (("embed_images", "image"), ("embed_texts", "text")):
        raw = batch[role]["features"]
        found = base.functions()[name](tree, {}, batch[role])
        np.testing.assert_allclose(found, raw / np.linalg.norm(raw, axis=1)[:, None], rtol=1e-5)
    image, text = (np.asarray(batch[r]["features"], np.float64) for r in ("image", "text"))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    logits = np.exp(4.6) * image @ text.T
    right = np.diag(logits)
    wanted = [np.log(np.exp(logits).sum(axis)) - right for axis in (0, 1)]
    loss, _ = base.loss(tree, {}, batch, jax.random.key(0))
    assert float(loss) == pytest.approx(np.mean(wanted), rel=1e-5)


@pytest.mark.parametrize("kind", ["distill_mse", "contrastive"])
def test_a_language_adapter_learns_in_its_space(base, kind):
    adapter = AdapterSpec(kind="linear", width=8, num_heads=2)
    task = LanguageTask(TOWERS["foreign"], base, adapter, LossSpec(kind))
    teacher = "text" if kind == "distill_mse" else "image"
    batch = {"foreign": features(8, 3, L), teacher: features(D, 4)}
    frozen = {"base": base.init(jax.random.key(0), {}, {})}
    before = trees.fingerprint(frozen)
    trainable = task.init(jax.random.key(0), frozen, batch)
    tx = optax.adamw(3e-2)
    state, step = create(trainable, tx, jax.random.key(1)), make_train_step(task, tx)
    losses = []
    for _ in range(100):
        state, found = step(state, frozen, batch)
        losses.append(float(found["loss"].total))
    assert losses[-1] < 0.5 * losses[0]
    assert trees.fingerprint(frozen) == before
    if kind == "distill_mse":  # towards the un-normalised embedding, as M-CLIP
        student = task.embed("foreign", state.trainable, frozen, batch["foreign"])
        each = distill.mse(student, batch["text"]["features"])
        assert float(each.mean()) < losses[0]
    image = task.functions()["embed_images"](state.trainable, frozen, features(D, 4))
    assert image.shape == (B, D)


def test_towers_that_share_no_space_are_refused():
    with pytest.raises(MmjaxError, match="embed in 6 and 7 dimensions, so they share no space"):
        make_task(stage(), TOWERS | {"text": Tower("text", 7)})


def test_a_domain_cannot_tune_heads_that_are_not_there(base):
    domain = stage("domain", residual=ResidualSpec(tune="heads"))
    with pytest.raises(MmjaxError, match="a pretrained base has none"):
        make_task(domain, TOWERS, base)
    make_task(stage("domain"), TOWERS, base)

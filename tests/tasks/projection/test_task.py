"""The projection's loss against float64, its masks, and how it is put together."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import trees
from mmjax.encoders.output import Tower
from mmjax.specs.projection import ProjectionSpec
from mmjax.specs.spec import EncoderSpec, Stage, TrainSpec
from mmjax.tasks.projection.task import ProjectionTask, make_projection

B, WIDTHS = 11, {"image": 9, "text": 6}


def make(loss: Any, **settings) -> ProjectionTask:
    towers = {role: Tower(role, width) for role, width in WIDTHS.items()}
    return ProjectionTask(towers, ProjectionSpec(loss, hidden=7, out_dim=5, **settings))


def batch_of(**present) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    batch: dict[str, Any] = {
        role: {"features": jnp.asarray(rng.normal(size=(B, width)), jnp.float32)}
        for role, width in WIDTHS.items()
    }
    for role, mask in present.items():
        batch[role]["present"] = jnp.asarray(mask)
    return batch | {"label": {"label": jnp.asarray(np.arange(B) % 3, jnp.int32)}}


def projected(trainable, batch, normalize) -> dict[str, np.ndarray]:
    """The two layers in float64."""
    found = {}
    for role in WIDTHS:
        p = jax.tree.map(lambda x: np.asarray(x, np.float64), trainable[role])
        x = np.asarray(batch[role]["features"], np.float64)
        z = np.maximum(x @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
        z = z @ p["out"]["kernel"] + p["out"]["bias"]
        found[role] = z / np.linalg.norm(z, axis=1, keepdims=True) if normalize else z
    return found


def bce(z, labels, temperature):
    """The paper's loss, pair by pair."""
    each = []
    for i, j in itertools.combinations(range(len(z)), 2):
        p = 1 / (1 + np.exp(-z[i] @ z[j] / temperature))
        each.append(-np.log(p) if labels[i] == labels[j] else -np.log(1 - p))
    return np.mean(each)


def supcon(z, labels, temperature):
    """SupCon's L_out, anchor by anchor."""
    each = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        total = np.log(sum(np.exp(z[i] @ z[j] / temperature) for j in others))
        friends = [j for j in others if labels[j] == labels[i]]
        if friends:
            each.append(np.mean([total - z[i] @ z[j] / temperature for j in friends]))
    return np.mean(each)


def infonce(a, b, labels, temperature):
    """Both directions, all of a label's pairs positives alike."""
    logits, same = a @ b.T / temperature, labels[:, None] == labels[None]
    each = []
    for s in (logits, logits.T):
        log_p = s - np.log(np.exp(s).sum(axis=1, keepdims=True))
        each.append(-(log_p * same).sum(axis=1) / same.sum(axis=1))
    return np.mean(each)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("loss", ["pairwise_bce", "supcon", "infonce"])
def test_the_loss_is_that_of_a_float64_reference(loss, normalize):
    task, batch = make(loss, normalize=normalize, temperature=0.5), batch_of()
    trainable = task.init(jax.random.key(0), {}, batch)
    value, metrics = task.loss(trainable, {}, batch, jax.random.key(1))
    z, labels = projected(trainable, batch, normalize), np.arange(B) % 3
    if loss == "infonce":
        expected = infonce(z["image"], z["text"], labels, 0.5)
    else:
        reference = {"pairwise_bce": bce, "supcon": supcon}[loss]
        expected = sum(reference(z[role], labels, 0.5) for role in WIDTHS)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    assert sum(float(m.total / m.examples) for m in metrics.values()) == pytest.approx(
        float(value), rel=1e-5
    )


@pytest.mark.parametrize("loss", ["pairwise_bce", "supcon", "infonce"])
def test_an_example_without_a_modality_takes_no_part_in_it(loss):
    task = make(loss, temperature=0.5)
    there = np.arange(B) % 4 != 0
    batch = batch_of(text=there)
    trainable = task.init(jax.random.key(0), {}, batch)
    value = task.loss(trainable, {}, batch, jax.random.key(1))[0]
    z, labels = projected(trainable, batch, task.normalize), np.arange(B) % 3
    if loss == "infonce":
        expected = infonce(z["image"][there], z["text"][there], labels[there], 0.5)
    else:
        reference = {"pairwise_bce": bce, "supcon": supcon}[loss]
        expected = reference(z["image"], labels, 0.5) + reference(
            z["text"][there], labels[there], 0.5
        )
    np.testing.assert_allclose(value, expected, rtol=2e-5)


def stage_of(**projection) -> Stage:
    encoders = {role: EncoderSpec(role) for role in WIDTHS}
    spec, train = ProjectionSpec(**projection), TrainSpec(select="none")
    return Stage("projection", "projection", encoders, projection=spec, train=train)


def test_the_papers_sizes_follow_from_the_width():
    task = ProjectionTask({"image": Tower("image", 768)}, ProjectionSpec())
    batch = {"image": {"features": jnp.ones((2, 768))}}
    trainable = task.init(jax.random.key(0), {}, batch)
    assert trees.count(trainable) == 14_480
    # PyTorch's initial values: uniform, as wide as 1 / sqrt(fan in).
    kernel = np.asarray(trainable["image"]["hidden"]["kernel"])
    assert 0.99 < np.abs(kernel).max() * 768**0.5 <= 1
    narrow = ProjectionTask({"image": Tower("image", 10)}, ProjectionSpec())
    shapes = narrow.init(jax.random.key(0), {}, {"image": {"features": jnp.ones((2, 10))}})
    assert shapes["image"]["hidden"]["kernel"].shape == (10, 5)


def test_a_single_projector_reads_all_features_side_by_side():
    towers = {role: Tower(role, width) for role, width in WIDTHS.items()}
    task = make_projection(stage_of(mode="single"), towers, None)
    assert isinstance(task, ProjectionTask)
    assert [(t.role, t.width) for t in task.towers.values()] == [("joined", 15)]
    assert list(task.functions()) == ["embed_joined"]
    apart = make_projection(stage_of(), towers, None)
    assert list(apart.functions()) == ["embed_images", "embed_texts"]

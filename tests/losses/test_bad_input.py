"""Bad batches: a clear sentence, or the documented value; never a NaN gradient."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import MmjaxError
from mmjax.losses import contrastive, pairs
from mmjax.losses.weighting import Focal, HardNegatives, LossSoftmax

LOSSES = {
    "info_nce": contrastive.info_nce,
    "supervised": contrastive.supervised,
    "sigmoid": lambda x, y, s, **k: contrastive.sigmoid(x, y, s, -1.0, **k),
    "pairwise_bce": contrastive.pairwise_bce,
}


def run(function, image, text, weights=None, **options):
    """Loss and gradients by everything, under jit."""
    weights = jnp.ones(len(image)) if weights is None else jnp.asarray(weights, jnp.float32)

    def loss(image, text, scale, weights):
        return function(image, text, scale, weights=weights, **options)[0]

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    return step(image, text, jnp.float32(3.0), weights)


def all_zero(gradients):
    return not any(np.asarray(g).any() for g in gradients)  # NaN is true


def all_finite(gradients):
    return all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite(name, bad, make_pairs):
    image, text = make_pairs(6)
    image = image.at[2, 1].set(bad)
    with pytest.raises(MmjaxError, match=r"not finite numbers in 1 of 6 pairs: 2"):
        LOSSES[name](image, text, 1.0)
    loss, gradients = run(LOSSES[name], image, text, hard=Focal(1.0))
    assert np.isnan(loss)  # seen by the trainer
    assert all_zero(gradients)  # felt by no parameter


@pytest.mark.parametrize("name", LOSSES)
def test_batches_without_anything_to_learn_cost_nothing(name, make_pairs):
    image, text = make_pairs(4)
    for options in ({"mask": jnp.zeros(4, bool)}, {"weights": jnp.zeros(4)}):
        loss, gradients = run(LOSSES[name], image, text, hard=LossSoftmax(1.0), **options)
        assert loss == 0
        assert all_finite(gradients)
        assert all_zero(gradients[:3])


@pytest.mark.parametrize(
    "options",
    [{}, {"hard": Focal(1.0)}, {"negatives": HardNegatives(1.0, 0.1)}],
    ids=["plain", "focal", "hcl"],
)
def test_one_pair_has_no_rivals(options, make_pairs):
    loss, gradients = run(contrastive.info_nce, *make_pairs(1), **options)
    assert loss == 0
    assert all_zero(gradients)


def test_zero_vectors_are_as_near_to_all(make_pairs):
    image, text = make_pairs(5)
    loss, gradients = run(contrastive.info_nce, jnp.zeros_like(image), text)
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)
    assert all_finite(gradients)


def test_negative_weights(make_pairs):
    image, text = make_pairs(4)
    weights = jnp.array([1.0, -1.0, 2.0, np.nan])
    with pytest.raises(MmjaxError, match=r"weights are negative .* in 2 of 4 pairs: 1, 3"):
        contrastive.info_nce(image, text, 1.0, weights=weights)
    found, gradients = run(contrastive.info_nce, image, text, weights)
    wanted, _ = run(contrastive.info_nce, image, text, [1.0, 0.0, 2.0, 0.0])
    assert found == wanted
    assert all_finite(gradients)


def test_shapes_that_do_not_fit(mesh, make_pairs):
    image, text = make_pairs(6)
    wrong: dict[str, dict[str, Any]] = {
        "weights": {"weights": jnp.ones(5)},
        "mask": {"mask": jnp.ones(7, bool)},
        "positives": {"positives": jnp.ones((6, 1), jnp.int32)},
    }
    for name, options in wrong.items():
        with pytest.raises(MmjaxError, match=rf"{name} has shape .*; 6 pairs need \(6,\)"):
            contrastive.info_nce(image, text, 1.0, **options)
    with pytest.raises(MmjaxError, match=r"6 pairs do not divide over the 4 shards"):
        contrastive.info_nce(image, text, 1.0, mesh=mesh(4))
    for loss in (contrastive.supervised, contrastive.pairwise_bce):
        with pytest.raises(MmjaxError, match="without labels"):
            loss(image, None, 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Focal(-1.0),
        lambda: Focal(float("nan")),
        lambda: LossSoftmax(0.0),
        lambda: HardNegatives(-1.0),
        lambda: HardNegatives(0.0, 1.0),
    ],
)
def test_settings_out_of_range(make):
    with pytest.raises(MmjaxError):
        make()


def test_duplicates_are_counted(caplog):
    with caplog.at_level(logging.WARNING, "mmjax"):
        assert pairs.warn_duplicates(["a", "b", "c"]) == 0
        assert not caplog.messages
        assert pairs.warn_duplicates(["a", "b", "a", "a"]) == 2
    assert "2 of 4 captions" in caplog.messages[0]


def test_equal_texts_are_told_of_where_no_positives_are_given(caplog):
    image = jnp.eye(4)
    text = image.at[3].set(image[0])
    with caplog.at_level(logging.WARNING, "mmjax"):
        contrastive.info_nce(image, text, 1.0, positives=jnp.array([0, 1, 2, 0]))
        contrastive.info_nce(image, text, 1.0, mask=jnp.array([True, True, True, False]))
        assert not caplog.messages
        contrastive.info_nce(image, text, 1.0)
    assert "1 of 4 texts" in caplog.messages[0]

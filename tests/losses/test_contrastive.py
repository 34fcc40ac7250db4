import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.losses.contrastive import MAX_LOGIT_SCALE, info_nce


def reference(image, text, scale, smoothing=0.0):
    """The definition in float64."""
    image, text = np.asarray(image, np.float64), np.asarray(text, np.float64)
    logits = np.exp(min(scale, MAX_LOGIT_SCALE)) * image @ text.T

    def one_way(rows):
        rows = rows - rows.max(axis=1, keepdims=True)
        log_p = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        return -(1 - smoothing) * np.diag(log_p) - smoothing * log_p.mean(axis=1)

    return (one_way(logits) + one_way(logits.T)) / 2


def pairs(n=24, d=16, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, n, d)).astype(np.float32)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [0.0, np.log(14.3), np.log(100.0), 9.0])
def test_equals_the_definition(scale, smoothing):
    image, text = pairs()
    found = info_nce(image, text, jnp.float32(scale), smoothing)
    np.testing.assert_allclose(
        found, reference(image, text, scale, smoothing), rtol=2e-5, atol=1e-5
    )


def test_gradients_equal_finite_differences_in_float64():
    image, text = pairs(6, 4)
    grad = jax.grad(lambda x, s: info_nce(x, text, s).mean(), argnums=(0, 1))
    by_image, by_scale = grad(image, jnp.float32(1.5))
    step = 1e-6
    for i, j in [(0, 0), (3, 2), (5, 3)]:
        moved = np.array(image, np.float64), np.array(image, np.float64)
        moved[0][i, j] += step
        moved[1][i, j] -= step
        slope = (reference(moved[0], text, 1.5) - reference(moved[1], text, 1.5)).mean() / step / 2
        np.testing.assert_allclose(by_image[i, j], slope, rtol=1e-3, atol=1e-6)
    slope = (reference(image, text, 1.5 + step) - reference(image, text, 1.5 - step)).mean()
    np.testing.assert_allclose(by_scale, slope / step / 2, rtol=1e-4)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_value_and_gradients_do_not_depend_on_the_mesh(devices, mesh):
    image, text = pairs()
    function = jax.value_and_grad(lambda x, y, s: info_nce(x, y, s).mean(), argnums=(0, 1, 2))
    dense = function(image, text, jnp.float32(2.0))
    split = NamedSharding(mesh(devices), PartitionSpec("data"))
    placed = [jax.device_put(x, split) for x in (image, text)]
    sharded = jax.jit(function)(*placed, jnp.float32(2.0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), dense, sharded
    )


def test_bfloat16_inputs_are_accumulated_in_float32():
    image, text = pairs(d=256)
    found = info_nce(jnp.bfloat16(image), jnp.bfloat16(text), jnp.float32(2.0))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference(image, text, 2.0), rtol=2e-2)

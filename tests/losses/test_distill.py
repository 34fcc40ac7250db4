import jax
import jax.numpy as jnp
import numpy as np

from mmjax.losses import distill


def test_mse_and_cosine_equal_their_definitions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 7))
    squared = ((a - b) ** 2).sum(axis=1)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    a32, b32 = jnp.float32(a), jnp.float32(b)
    np.testing.assert_allclose(distill.mse(a32, b32), squared, rtol=1e-5)
    np.testing.assert_allclose(distill.cosine(a32, b32), 1 - (a * b).sum(1) / lengths, rtol=1e-5)


def test_a_zero_vector_has_a_finite_gradient():
    zero, other = jnp.zeros((1, 4)), jnp.ones((1, 4))
    for loss in (distill.mse, distill.cosine):
        assert np.isfinite(jax.grad(lambda x, loss=loss: loss(x, other).sum())(zero)).all()

import jax.numpy as jnp
import numpy as np

from mmjax import metrics


def test_means_merge_by_examples_not_by_batches():
    one = {"loss": metrics.mean_of(jnp.array([1.0, 2.0, 3.0]))}
    two = {"loss": metrics.mean_of(jnp.array([10.0, 99.0]), jnp.array([1.0, 0.0]))}
    assert metrics.compute(metrics.merge([one, two])) == {"loss": 4.0}


def test_nothing_counted_is_nan_and_not_an_error():
    found = metrics.compute({"x": metrics.mean_of(jnp.ones(2), jnp.zeros(2))})
    assert np.isnan(found["x"])

"""Rows go through a task's functions in few shapes, and little beside them."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import sharding
from mmjax.data.tables import FeatureTable, View
from mmjax.tasks.published import Published

WIDTH = 4


class Doubling:
    """A task that counts how many rows its function is given, shape by shape."""

    def __init__(self):
        self.traced = []

    def init(self, key, frozen, batch):
        return {}

    def loss(self, trainable, frozen, batch, key):
        return jnp.float32(0), {}

    def functions(self):
        def embed(trainable, frozen, inputs):
            self.traced.append(len(inputs["features"]))
            return 2 * inputs["features"]

        return {"embed": embed}


@pytest.fixture
def rows():
    """Returns `rows(n)`: a table of n rows, and its values in another order."""

    def make(count):
        values = np.arange(count * WIDTH, dtype=np.float32).reshape(count, WIDTH)
        table = FeatureTable(values, np.arange(count + 1), pooled=True)
        order = np.random.default_rng(0).permutation(count)
        return View(table, order), values[order]

    return make


@pytest.mark.parametrize("parts", [1, 8])
@pytest.mark.parametrize(
    ("count", "shapes"), [(1, {32}), (39, {32}), (256, {256}), (303, {256, 32}), (545, {256, 32})]
)
def test_rows_come_back_in_order_from_two_shapes_at_most(count, shapes, parts, rows):
    task = Doubling()
    embed = Published(task, sharding.make_mesh(parts, 8 // parts)).bind({}, {})["embed"]
    view, values = rows(count)
    np.testing.assert_array_equal(embed(view), 2 * values)
    assert sorted(task.traced) == sorted(shapes)  # each traced once


def test_several_views_of_an_item_are_averaged_to_a_unit_vector(rows):
    embed = Published(Doubling(), sharding.make_mesh(2, 4)).bind({}, {})["embed"]
    view, values = rows(66)
    pairs = View(view.table, view.rows.reshape(-1, 2))
    mean = values.reshape(-1, 2, WIDTH).mean(axis=1)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(embed(pairs), expected, rtol=1e-6)

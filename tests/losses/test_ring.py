"""Who sends to whom, and that what is sent arrives as it was."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mmjax import sharding
from mmjax.losses.ring import closed_way, ring_order, send


def grid(*sizes):
    return list(itertools.product(*map(range, sizes)))


@pytest.mark.parametrize(
    ("sizes", "farthest"),
    [
        ((2, 4, 1), 1),
        ((4, 8, 1), 1),
        ((16, 16, 1), 1),
        ((3, 4, 1), 1),
        ((3, 2, 5), 1),
        ((4, 4, 8), 1),
        ((2, 1, 1), 1),
        ((8, 1, 1), 2),
        ((1, 1, 6), 2),
    ],
)
def test_a_way_through_all_chips_and_back_by_single_links(sizes, farthest):
    chips = grid(*sizes)
    for places in (chips, [chips[i] for i in np.random.default_rng(0).permutation(len(chips))]):
        way = closed_way(places)
        assert sorted(way) == list(range(math.prod(sizes)))
        stations = np.array([places[i] for i in way])
        hops = np.abs(np.roll(stations, -1, axis=0) - stations).sum(axis=1)
        assert hops.max() <= farthest


def test_groups_of_chips_stand_for_their_corners():
    corners = [(4 * i, 2 * j, 0) for i in range(2) for j in range(4)]
    assert closed_way(corners) == closed_way(grid(2, 4, 1))


@pytest.mark.parametrize(
    "chips",
    [
        [()] * 4,
        [(0, 0), (0, 0), (0, 1), (0, 1)],
        [(0, 0), (0, 1), (1, 0), (2, 2)],
        grid(3, 3),
        [(0, 0)],
    ],
    ids=["unknown", "two cores a chip", "no grid", "odd", "alone"],
)
def test_where_there_is_no_such_way_places_stay(chips):
    assert closed_way(chips) == tuple(range(len(chips)))


def test_what_is_sent_arrives_bit_by_bit():
    mesh = sharding.make_mesh(4, 2)
    assert ring_order(mesh) == (0, 1, 2, 3)
    rows = 4 * 3
    sent = {
        "flags": jnp.arange(rows) % 3 == 0,
        "ids": jnp.arange(rows, dtype=jnp.int32) * 2_000_003 - 7,
        "sums": jnp.array([np.nan, -np.inf, 1e-42, -0.0] * 3, jnp.float32),
        "vectors": jnp.arange(rows * 2, dtype=jnp.bfloat16).reshape(rows, 2),
    }
    split = PartitionSpec("data")
    around = jax.jit(
        jax.shard_map(
            lambda tree: send(tree, mesh),
            mesh=mesh,
            in_specs=split,
            out_specs=split,
            check_vma=False,
        )
    )
    for name, arrived in jax.device_get(around(sent)).items():
        expected = np.roll(np.asarray(sent[name]), 3, axis=0)
        assert arrived.dtype == expected.dtype
        assert arrived.tobytes() == expected.tobytes(), name

"""Which rows of a batch a process holds follows the mesh, whatever the order of its devices."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal

from mmjax import sharding
from mmjax.data.pipeline import Choices, Phase, examples, train_batches
from mmjax.data.tables import table_of
from mmjax.errors import MmjaxError


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh knows of a device of some process."""

    id: int
    process_index: int


def mesh_of(processes, shape, names=("data", "model")):
    """A mesh whose devices, in the order of its axes, belong to these processes."""
    devices = [Device(*both) for both in enumerate(processes)]
    types = (AxisType.Auto,) * len(names)
    return Mesh(np.array(devices, object).reshape(shape), names, axis_types=types)


@pytest.mark.parametrize(
    ("processes", "shape", "rows"),
    [
        # One process a device, all of them one model: each holds the whole batch.
        ([0, 1], (1, 2), {0: range(8), 1: range(8)}),
        ([0, 1], (2, 1), {0: range(4), 1: range(4, 8)}),
        # Two models of two processes each.
        (
            [0, 1, 2, 3],
            (2, 2),
            {0: range(4), 1: range(4), 2: range(4, 8), 3: range(4, 8)},
        ),
        # The data axis goes round the processes, and a model lies within one.
        (
            [0, 0, 1, 1, 0, 0, 1, 1],
            (4, 2),
            {0: [0, 1, 4, 5], 1: [2, 3, 6, 7]},
        ),
        # The second process stands first.
        ([1, 1, 0, 0], (4, 1), {1: range(4), 0: range(4, 8)}),
        # A model over both processes, and a process that is not in the mesh.
        ([0, 1, 1, 0], (2, 2), {0: range(8), 1: range(8), 2: []}),
    ],
)
def test_rows_follow_the_data_coordinate(processes, shape, rows):
    mesh = mesh_of(processes, shape)
    for process, wanted in rows.items():
        assert_array_equal(sharding.own_rows(8, mesh, process), list(wanted))


def test_the_axes_may_stand_in_any_order():
    mesh = mesh_of([0, 1, 0, 1], (2, 2), ("model", "data"))
    assert_array_equal(sharding.own_rows(6, mesh, 1), [3, 4, 5])


@pytest.mark.parametrize("seed", range(20))
def test_a_process_holds_the_rows_of_each_of_its_devices(seed):
    rng = np.random.default_rng(seed)
    data, model, share = rng.integers(1, 5, 3)
    mesh = mesh_of(rng.integers(0, 3, data * model).tolist(), (data, model))
    for process in range(3):
        wanted = {
            place * share + i
            for (place, _), device in np.ndenumerate(mesh.devices)
            for i in range(share)
            if device.process_index == process
        }
        found = sharding.own_rows(int(data * share), mesh, process)
        assert_array_equal(found, sorted(wanted))


def test_data_is_cut_by_the_same_rows(monkeypatch):
    """As two processes see it whose devices share one model: both draw the whole batch."""
    table = table_of([np.full(2, i, np.float32) for i in range(20)])
    phase = Phase(0, {"x": Choices.of(table, [[i] for i in range(20)])})
    whole = [batch["x"]["row"] for batch in train_batches([phase], 3, 8, seed=1)]
    example = examples(phase, 8, seed=1)["x"]["row"]
    assert [len(rows) for rows in whole] == [8] * 3
    shared, split = mesh_of([0, 1], (1, 2)), mesh_of([0, 1], (2, 1))
    for number in range(2):
        monkeypatch.setattr(jax, "process_index", lambda number=number: number)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        for mesh, part in ((shared, slice(8)), (split, slice(4 * number, 4 * number + 4))):
            cut = [batch["x"]["row"] for batch in train_batches([phase], 3, 8, 1, mesh)]
            assert_array_equal(cut, [rows[part] for rows in whole])
            assert_array_equal(examples(phase, 8, 1, mesh)["x"]["row"], example[part])


def test_a_batch_lies_split_over_data_whatever_the_order_of_devices(mesh):
    order = np.random.default_rng(0).permutation(8)
    mixed = Mesh(np.array(jax.devices())[order].reshape(4, 2), ("data", "model"))
    batch = {"text": {"ids": np.arange(16).reshape(8, 2)}, "few": np.arange(4)}
    for made in (mesh(4, 2), mesh(1, 8), mesh(8 // 2, 1), mixed):
        for size in ((), (8,)):
            placed = sharding.place_batch(batch, made, *size)
            assert placed["text"]["ids"].sharding == NamedSharding(made, PartitionSpec("data"))
            assert_array_equal(placed["text"]["ids"], batch["text"]["ids"])
            assert_array_equal(placed["few"], batch["few"])


def test_a_whole_batch_is_not_taken_for_a_part_of_one(mesh):
    with pytest.raises(MmjaxError, match=r"8 rows of a batch of 4 .* holds 4 of them"):
        sharding.place_batch({"x": np.arange(8)}, mesh(2), 4)


def test_a_batch_divides_over_data_alone(mesh, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 8)  # that share two models
    sharding.check_batch(6, mesh(2, 4))
    with pytest.raises(MmjaxError, match="batch size 6 does not divide over 4 data shards"):
        sharding.check_batch(6, mesh(4, 2))


def test_what_is_split_comes_whole_to_the_host(mesh):
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    placed = jax.device_put(values, NamedSharding(mesh(4, 2), PartitionSpec("data", "model")))
    found = sharding.to_host({"device": placed, "host": values, "number": 3})
    assert all(isinstance(leaf, np.ndarray) for leaf in found.values())
    assert_array_equal(found["device"], values)

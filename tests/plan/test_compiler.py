"""Small programs through Google's own compiler, which needs no TPU; the extra `plan` brings it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import sharding
from mmjax.commands import recipes
from mmjax.errors import MmjaxError
from mmjax.plan import compiler
from mmjax.plan.chips import read_topology
from mmjax.plan.hlo import account
from mmjax.plan.planning import Planner, with_mesh
from mmjax.plan.programs import PlannedProgram
from mmjax.specs.recipe import resolve_recipe

pytestmark = [
    pytest.mark.libtpu,
    pytest.mark.skipif(not compiler.available(), reason="needs libtpu (the extra `plan`)"),
]
L, D, F, B = 8, 1024, 4096, 256


@pytest.fixture(scope="module")
def pod():
    """Returns `pod(data, model, slices=1)`: a mesh of v5e chips that are not here."""

    @functools.cache
    def devices(slices):
        return list(compiler.describe_devices(read_topology("v5e-8", slices)).flat)

    def make(data, model, slices=1):
        return sharding.make_mesh(data, model, slices, devices(slices))

    return make


def shaped(mesh, dims, *spec, dtype=jnp.bfloat16):
    where = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(dims, dtype, sharding=where)


def layers(w1, w2, x):
    def body(x, w):
        return x + jax.nn.gelu(x @ w[0]) @ w[1], None

    return jnp.sum(jax.lax.scan(body, x, (w1, w2))[0].astype(jnp.float32) ** 2)


@pytest.fixture(scope="module")
def split_layers(pod):
    """A scan of layers whose weights are split over `model`, forward and back."""
    mesh = pod(2, 4)
    gradient = jax.jit(jax.value_and_grad(layers, argnums=2))
    shapes = (
        shaped(mesh, (L, D, F), None, None, "model"),
        shaped(mesh, (L, F, D), None, "model"),
        shaped(mesh, (B, D), "data"),
    )
    return gradient.lower(*shapes).compile()


def test_loops_of_a_tpu_are_counted_by_their_conditions(split_layers):
    cost = account(split_layers.as_text())
    assert cost.flops == L * 8 * B * D * F / 8
    assert cost.uncertain == ()
    once = split_layers.cost_analysis()["flops"]
    assert once < cost.flops / 4


def test_weights_are_read_once_a_pass_and_what_stays_in_vmem_costs_nothing(split_layers):
    cost = account(split_layers.as_text())
    weights = 2 * 2 * L * D * F / 4
    assert 2 * weights <= cost.hbm_bytes < 1.05 * 2 * weights


def test_partial_sums_meet_over_the_model_axis(split_layers):
    cost = account(split_layers.as_text())
    large = [one for one in cost.collectives if one.bytes > 1000]
    assert {(one.kind, one.group, one.times) for one in large} == {("all-reduce", 4, L)}
    assert {one.bytes for one in large} == {2 * B // 2 * D}


def test_slices_meet_over_data_and_a_model_stays_in_one(pod):
    mesh = pod(4, 4, slices=2)
    indices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert (indices == indices[:, :1]).all()
    assert set(indices[:, 0]) == {0, 1}
    total = jax.jit(lambda x, w: jnp.sum(x @ w))
    shapes = shaped(mesh, (64, 256), "data"), shaped(mesh, (256, 512), None, "model")
    text = total.lower(*shapes).compile().as_text()
    assert text is not None
    assert account(text).collectives


@pytest.mark.parametrize(("topology", "model"), [("v5p-256", 2), ("v5p-256", 64)])
def test_an_axis_may_be_a_part_of_a_torus_axis(topology, model):
    devices = compiler.describe_devices(read_topology(topology)).flat
    mesh = sharding.make_mesh(-1, model, 1, list(devices))
    assert len(set(mesh.devices.flat)) == len(devices)
    places = np.array([[device.coords for device in row] for row in mesh.devices])
    steps = np.abs(np.diff(places, axis=1)).sum(-1)
    assert (steps[:, : min(model, 4) - 1] == 1).all()  # neighbours of `model` are the network's


def test_a_mesh_that_ignores_the_slices_is_told(pod):
    with pytest.raises(MmjaxError, match=r"--config.mesh.slices=2"):
        sharding.make_mesh(4, 4, 1, list(pod(4, 4, slices=2).devices.flat))


def test_what_the_compiler_refuses_is_told_with_its_own_figure(pod):
    mesh = pod(8, 1)
    weights = shaped(mesh, (9, 1 << 30), dtype=jnp.int16)
    double = jax.jit(lambda w: w * 2)
    program = PlannedProgram("large", lambda: double.trace(weights), {"frozen": weights}, "", 1)
    found = compiler.compile_program(program)
    assert found.memory is None
    assert found.wanted > 16 << 30
    assert "hbm" in found.refusal.lower()


def test_a_recipe_is_planned_whole_and_the_arithmetic_agrees():
    recipe = resolve_recipe(recipes.load_recipe("base_emoji:tiny", {}).to_dict())
    planner = Planner(read_topology("v5e-8"), "train step")
    plan = planner.plan(with_mesh(recipe, 8, 1))
    (line,) = plan.lines
    assert (line.how, plan.fits) == ("compiled", True)
    assert line.arguments == pytest.approx(sum(line.held.values()), rel=0.05)
    kinds = {text.split()[0] for text in line.collectives}
    assert "collective-permute" in kinds, "the loss goes round the ring"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "available", lambda: False)
        (counted,) = planner.plan(with_mesh(recipe, 8, 1)).lines
    assert counted.how == "arithmetic"
    assert counted.flops == pytest.approx(line.flops, rel=0.05)


@pytest.mark.parametrize("program", ["train step", "one token"])
def test_lavin_7b_takes_what_arithmetic_says_and_copies_no_stack(program, monkeypatch):
    """Row by row, kernels of queries, keys, values, gate and up were copied: 1.0 GiB of a chip."""
    recipe = resolve_recipe(recipes.load_recipe("lavin_scienceqa_7b", {}).to_dict())
    planner, recipe = Planner(read_topology("v5e-8"), program), with_mesh(recipe, 1, 8)
    (line,) = planner.plan(recipe).lines
    assert not [fault for fault in line.faults if "4096,1376" in fault or "4096,512" in fault]
    monkeypatch.setattr(compiler, "available", lambda: False)
    (counted,) = planner.plan(recipe).lines
    assert counted.peak == pytest.approx(line.peak, rel=0.15)
    assert counted.flops == pytest.approx(line.flops, rel=0.05)


def test_an_unknown_slice_is_one_sentence():
    topology = dataclasses.replace(read_topology("v5e-8"), shape="3x5")
    with pytest.raises(MmjaxError, match="does not know the topology v5e:3x5"):
        compiler.describe_devices(topology)

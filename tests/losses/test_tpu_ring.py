"""The ring of the contrastive losses by Google's compiler, for v5e slices that are not here."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import sharding
from mmjax.losses import contrastive
from mmjax.plan import compiler
from mmjax.plan.chips import read_topology
from mmjax.plan.hlo import account

pytestmark = [
    pytest.mark.libtpu,
    pytest.mark.skipif(not compiler.available(), reason="needs libtpu (the extra `plan`)"),
]
ROWS, WIDTH = 1024, 512


@pytest.mark.parametrize("chips", [8, 32, 256])
def test_hops_are_under_way_behind_the_tiles_forward_and_back(chips):
    devices = list(compiler.describe_devices(read_topology(f"v5e-{chips}")).flat)
    mesh = sharding.make_mesh(chips, 1, 1, devices)
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    vectors = jax.ShapeDtypeStruct((ROWS * chips, WIDTH), jnp.bfloat16, sharding=split)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)

    def loss(image, text, scale):
        return contrastive.info_nce(image, text, scale, mesh=mesh)[0]

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    cost = account(step.lower(vectors, vectors, scale).compile().as_text() or "")
    assert cost.uncertain == ()
    hops = [one for one in cost.collectives if one.kind == "collective-permute"]
    behind = [one for one in hops if one.times == chips]
    assert all(one.overlaps for one in behind)
    # Texts and what is known of each go round twice, their gradients once.
    text, gradient = ROWS * WIDTH * 2, ROWS * WIDTH * 4
    assert sorted(one.bytes for one in behind if one.bytes >= text) == [text, text, gradient]
    assert sum(one.bytes for one in behind if one.bytes < text) < text / 16
    # What was found of them comes home in a hop of its own after either round.
    assert sorted(one.times for one in hops if one not in behind) == [1, 1]
    rest = [one for one in cost.collectives if one.kind != "collective-permute"]
    assert all(one.bytes <= 8 for one in rest), "scalars alone are summed over the ring"

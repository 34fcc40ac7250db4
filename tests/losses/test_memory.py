"""What the compiler plans for large batches: memory and traffic. Nothing large is run."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.losses import contrastive
from mmjax.losses.weighting import Focal, HardNegatives

D = 512
MIB = 2**20


def compiled(batch, mesh=None, **options):
    """value_and_grad of the loss by both towers and the scale, compiled for one batch size."""
    sharding = None if mesh is None else NamedSharding(mesh, PartitionSpec("data"))
    tower = jax.ShapeDtypeStruct((batch, D), jnp.float32, sharding=sharding)

    def loss(image, text, scale):
        return contrastive.info_nce(image, text, scale, mesh=mesh, **options)[0]

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    return step.lower(tower, tower, jax.ShapeDtypeStruct((), jnp.float32)).compile()


def temporary(program):
    return program.memory_analysis().temp_size_in_bytes


def largest_buffer(program):
    """Elements of the largest array that the program names."""
    sizes = [1]
    for shape in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", program.as_text()):
        count = 1
        for axis in shape.split(","):
            count *= int(axis)
        sizes.append(count)
    return max(sizes)


def test_memory_is_linear_in_the_batch():
    batch = 16_384
    program, half = compiled(batch), compiled(batch // 2)
    assert temporary(program) <= 128 * MIB
    assert temporary(program) <= 2.1 * temporary(half)
    assert largest_buffer(program) < batch * batch // 16


@pytest.mark.parametrize(
    "options", [{"negatives": HardNegatives(1.0, 0.1)}, {"hard": Focal()}], ids=["hcl", "focal"]
)
def test_weighting_costs_no_memory(options):
    assert temporary(compiled(16_384, **options)) <= 1.25 * temporary(compiled(16_384))


def test_a_ring_shares_out_memory_and_gathers_no_tower(mesh):
    batch = 32_768
    programs = {n: compiled(batch, mesh(n)) for n in (2, 4, 8)}
    shares = [n * temporary(program) for n, program in programs.items()]
    assert max(shares) <= 1.1 * min(shares)
    assert temporary(programs[8]) <= 64 * MIB
    text = programs[8].as_text() or ""
    assert "collective-permute" in text
    gathered = re.findall(r"= \w+\[([\d,]*)\][^=]*\ball-gather", text)
    assert not [shape for shape in gathered if str(batch) in shape.split(",")]
    assert temporary(gather_form(batch, mesh(8))) >= 20 * temporary(programs[8])


def gather_form(batch, mesh):
    """The usual sharded form: every device gathers both towers and keeps its rows of logits."""
    split = NamedSharding(mesh, PartitionSpec("data"))
    tower = jax.ShapeDtypeStruct((batch, D), jnp.float32, sharding=split)

    def loss(image, text, scale):
        def local(image, text, scale):
            start = jax.lax.axis_index("data") * len(image)
            total = 0.0
            for rows, columns in ((image, text), (text, image)):
                columns = jax.lax.all_gather(columns, "data", tiled=True)
                log_p = jax.nn.log_softmax(scale * rows @ columns.T)
                hits = log_p[jnp.arange(len(rows)), start + jnp.arange(len(rows))]
                total -= jax.lax.pmean(hits.mean(), "data") / 2
            return total

        spec = PartitionSpec("data")
        specs = (spec, spec, PartitionSpec())
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())(
            image, text, scale
        )

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    return step.lower(tower, tower, jax.ShapeDtypeStruct((), jnp.float32)).compile()


def test_one_compile_a_shape(make_pairs):
    traced = []

    @jax.jit
    @jax.value_and_grad
    def step(image, text, scale, weights):
        traced.append(image.shape)
        return contrastive.info_nce(image, text, scale, weights=weights)[0]

    for seed in (0, 1):
        image, text = make_pairs(12, seed=seed)
        step(image, text, jnp.float32(2.0 + seed), jnp.full(12, 1.0 + seed))
    assert traced == [(12, 16)]

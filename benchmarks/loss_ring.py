"""What does a device of a mesh hold and send? Memory and traffic are the compiler's own plan."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks.harness import Grid, Options, Report
from benchmarks.loss_forms import compiled, naive, step
from benchmarks.pairs import SCALE, WIDTH, towers
from mmjax.losses import contrastive
from mmjax.progress import track

MIB = 2**20
RUN = 2048  # pairs of the batch that is really computed, for the error
COLLECTIVES = ("collective-permute", "all-reduce", "all-gather")


def run(options: Options) -> Report:
    """Compiles the sharded loss for 1, 2, 4 and 8 devices and runs a small batch.

    Args:
      options: batch sizes to compile; the smallest, at most 2,048, is run.

    Returns:
      MiB a device, collectives in the program, and the largest error against the naive form.
    """
    (batch, *_) = options.sizes((32768,), (32768,))
    small = min(batch, RUN)
    pair = tuple(jnp.asarray(x) for x in towers(small))
    logit_scale = jnp.log(jnp.float32(SCALE))
    expected = step(naive)(*pair, logit_scale)
    rows, samples = [], {}
    counts = [n for n in (1, 2, 4, 8) if n <= jax.device_count()]
    for count in track(counts, "compiling rings"):
        mesh = _mesh(count)
        split = NamedSharding(mesh, PartitionSpec("data"))
        ring = step(contrastive.info_nce, mesh=mesh)
        program = compiled(ring, batch, split)
        text = program.as_text()
        mib = program.memory_analysis().temp_size_in_bytes / MIB
        sent = {name: len(re.findall(rf"\b{name}(-start)?\(", text)) for name in COLLECTIVES}
        actual = ring(*jax.device_put(pair, split), logit_scale)
        error = max(
            float(jnp.linalg.norm(jax.device_get(a) - b) / jnp.linalg.norm(b))
            for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
        )
        samples[str(count)] = {"mib": mib, "collectives": sent, "error": error}
        rows.append((str(count), f"{mib:,.1f}", *(str(n) for n in sent.values()), f"{error:.1e}"))
    title = f"Ring, B={batch:,} compiled and B={small:,} run, D={WIDTH}, f32"
    grid = Grid(title, ("devices", "MiB a device", *COLLECTIVES, "error"), tuple(rows))
    return Report([grid], samples)


def _mesh(count: int) -> Mesh:
    devices = np.array(jax.devices()[:count]).reshape(count, 1)
    return Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # Sharding on eight emulated devices
#
# One CPU stands for eight devices, so that a mesh can be tried where there is none. It must be
# said before jax starts; for a recipe `mmjax train RECIPE --cpu_devices=8` says it.

# %%
import contextlib

import jax

with contextlib.suppress(RuntimeError):  # it has started already
    jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.losses import contrastive, dense
from mmjax.sharding import make_mesh

print(jax.device_count(), "devices")
mesh = make_mesh(data=8, model=1)
print(dict(mesh.shape))

# %% [markdown]
# The contrastive loss compares every picture with every text. On a mesh each device keeps its
# pictures and passes its texts round a ring: the matrix of all pairs is never made, and the value
# is the same.

# %%
rng = np.random.default_rng(0)


def unit(rows, width=64):
    """Random unit vectors."""
    found = rng.normal(size=(rows, width)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


split = NamedSharding(mesh, PartitionSpec("data"))
images, texts = (jax.device_put(unit(256), split) for _ in range(2))
scale = jnp.float32(np.log(1 / 0.07))

ring = jax.jit(lambda a, b: contrastive.info_nce(a, b, scale, mesh=mesh)[0])
plain = jax.jit(lambda a, b: dense.info_nce(a, b, scale)[0])
print(float(ring(images, texts)), float(plain(images, texts)))
assert np.allclose(ring(images, texts), plain(images, texts), rtol=1e-5)

# %% [markdown]
# What the compiler plans beside inputs and outputs, a device, for the loss and its gradients at a
# larger batch. The program is planned here, not run.

# %%
large = jax.ShapeDtypeStruct((4096, 64), jnp.float32, sharding=split)


def planned(loss):
    """Bytes of temporary memory."""
    program = jax.jit(jax.grad(loss)).lower(large, large).compile()
    return program.memory_analysis().temp_size_in_bytes


by_ring = planned(lambda a, b: contrastive.info_nce(a, b, scale, mesh=mesh)[0])
by_matrix = planned(lambda a, b: dense.info_nce(a, b, scale)[0])
print(f"ring {by_ring / 2**20:.1f} MiB, all pairs {by_matrix / 2**20:.1f} MiB")

# %% [markdown]
# For devices that are not here, `mmjax plan lavin_scienceqa_7b --topology v5e-8 --mesh 1x8`
# compiles a recipe's own programs and says whether they fit.

"""One strict environment for every test: 8 CPU devices, checked shapes, no silent broadcasting."""

import os
from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jaxtyping import install_import_hook

DEVICES = 8

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", DEVICES)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Children (launched commands, grain workers) inherit the platform, never the number of devices.
os.environ["JAX_PLATFORMS"] = "cpu"

# Every annotation in mmjax is checked at run time from here on, so nothing above imports mmjax. The
# tower lets an int stand for a float, as type checkers do.
install_import_hook("mmjax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture(scope="session", autouse=True)
def _eight_devices() -> None:
    """Fails, rather than skips, when something created a backend before this file ran."""
    if jax.device_count() != DEVICES:
        pytest.exit(f"tests need {DEVICES} CPU devices, jax has {jax.device_count()}", returncode=3)


@pytest.fixture
def mesh() -> Callable[..., Mesh]:
    """Returns `mesh(data, model=1)`: a (data, model) mesh over the first data * model devices."""

    def make(data: int = DEVICES, model: int = 1) -> Mesh:
        devices = np.array(jax.devices()[: data * model]).reshape(data, model)
        return Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))

    return make

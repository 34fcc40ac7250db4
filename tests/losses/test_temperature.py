"""The clamp of the temperature by itself: its value, its gradient, what is reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses.temperature import LOGIT_SCALE_RANGE, MAX_LOGIT_SCALE, clamped, temperature

LIMIT = np.float32(MAX_LOGIT_SCALE)


@pytest.mark.parametrize("by_loss", [3.0, -3.0])
@pytest.mark.parametrize("scale", [-1.0, 2.0, LIMIT, np.nextafter(LIMIT, np.float32(9)), 9.0])
def test_only_what_leads_further_out_is_cut_off(scale, by_loss):
    value, pull = jax.vjp(clamped, jnp.float32(scale))
    assert value == min(np.float32(scale), LIMIT)
    expected = 0.0 if scale > LIMIT and by_loss < 0 else by_loss
    assert pull(jnp.float32(by_loss)) == (expected,)


def test_what_is_reported_is_what_is_used():
    assert temperature(jnp.float32(9.0)) == pytest.approx(0.01)
    assert temperature(jnp.log(jnp.float32(4.0))) == pytest.approx(0.25)
    assert LOGIT_SCALE_RANGE == (0.0, MAX_LOGIT_SCALE)

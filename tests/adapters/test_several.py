"""Several adapters on one model: each by its name, their weighted sum, what merging makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mmjax.adapters.dora import DoRA
from mmjax.adapters.houlsby import Houlsby
from mmjax.adapters.lora import Lora
from mmjax.adapters.merging import merge
from mmjax.adapters.prefix_tuning import PrefixTuning
from mmjax.adapters.several import Several, together
from mmjax.errors import MmjaxError

IDS = np.array([[5, 6, 7, 8, 9]])
INPUTS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
PARTS = {
    "food": Lora(rank=2, targets=("query", "down")),
    "animals": DoRA(rank=2, targets=("value",)),
}


def test_named_switched_added_and_merged(language, trained):
    several = together(PARTS)
    adapters = trained(several.init(jax.random.key(0), language.params["layers"]), std=0.1)
    assert set(adapters) == set(PARTS)

    def says(model, own=None):
        return np.asarray(jax.jit(model.logits)(model.params, INPUTS, own))

    plain = says(language)
    assert_array_equal(says(language.with_hook(several), adapters), plain)
    for name, part in PARTS.items():
        alone = says(language.with_hook(part), adapters[name])
        assert_array_equal(says(language.with_hook(several.using(name)), adapters), alone)
        assert np.abs(alone - plain).max() > 1e-3
    both = several.using("food", animals=-0.5)
    assert both.weights == (("food", 1.0), ("animals", -0.5))
    model = language.with_hook(both)
    said = says(model, adapters)
    assert_allclose(says(merge(model, adapters)), said, atol=2e-5)
    assert np.abs(said - says(language.with_hook(several.using("food")), adapters)).max() > 1e-3


def test_what_cannot_be_added_is_refused():
    with pytest.raises(MmjaxError, match="different names"):
        Several((("a", Lora()), ("a", DoRA())))
    with pytest.raises(MmjaxError, match="'p' is PrefixTuning: tokens of several"):
        together({"p": PrefixTuning(2)})
    with pytest.raises(MmjaxError, match=r"no adapters \['c'\]; there are \['a'\]"):
        together({"a": Lora()}).using("c")
    layers = {"attention": {"query": {"kernel": jnp.zeros((1, 4, 4))}}}
    several = together({"h": Houlsby(2)}).using("h")
    with pytest.raises(MmjaxError, match="between its two maps stands gelu"):
        several.merge(layers, {"h": {}})

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # An adapter of your own in thirty lines
#
# An adapter is a dataclass whose fields are its settings. It has three parts: parameters for the
# frozen layers, what it does in them, and how it is merged into their weights.

# %%
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import mmjax
from mmjax.adapters.hooks import LayerAdapter, maps, widths, with_maps
from mmjax.adapters.merging import merge


@dataclass(frozen=True)
class Gain:
    """y * (1 + g): every output of a dense map learns a factor, 1 at first."""

    targets: tuple[str, ...] = ("query", "value")

    def init(self, key, layers):
        """Factors of zero for every layer: the model is unchanged."""
        sizes = widths(layers)
        return {
            place: {"gain": jnp.zeros((sizes[place][0], sizes[place][2]))} for place in self.targets
        }

    def __call__(self, adapter, place, x, y, kernel):
        """What comes out of one place of one layer."""
        if place not in adapter:
            return y
        return y * (1 + adapter[place]["gain"])[None, None].astype(y.dtype)

    def merge(self, layers, adapters):
        """The frozen layers with the factors in their weights."""
        frozen, changed = dict(maps(layers)), {}
        for place, own in adapters.items():
            factor = 1 + own["gain"]
            kernel, bias = frozen[place]["kernel"], frozen[place]["bias"]
            changed[place] = {"kernel": kernel * factor[:, None], "bias": bias * factor}
        return with_maps(layers, changed)


gain = Gain()
assert isinstance(gain, LayerAdapter)

# %% [markdown]
# It goes into any encoder. Before training it changes nothing:

# %%
encoder = mmjax.load_encoder("asset:minilm-l6")
adapters = gain.init(jax.random.key(0), encoder.frozen_layers())
adapted = encoder.with_hook(gain)
words = ["a red apple", "a green apple", "a fast train"]
before = encoder.embed_texts(words)
assert np.array_equal(before, adapted.embed_texts(words, adapters=adapters))
print(sum(leaf.size for leaf in jax.tree.leaves(adapters)), "parameters")

# %% [markdown]
# With other factors it says something else, and merged into the weights it says the same without
# a hook. `gradients` would come from any function of `adapters`; here a plain step stands for
# training.

# %%
moved = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
after = adapted.embed_texts(words, adapters=moved)
merged = merge(adapted, moved).embed_texts(words)
print(np.abs(after - before).max(), np.abs(after - merged).max())
assert np.abs(after - merged).max() < 1e-4 < np.abs(after - before).max()

# %% [markdown]
# In a recipe it is `package.module:Gain`, or a name that your package announces:
#
#     mmjax train lavin_easyvqa --config.instruct.adapter=my_package.gain:Gain

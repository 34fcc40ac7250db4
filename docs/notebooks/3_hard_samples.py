# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # Hard samples, seen
#
# A contrastive loss may give pairs that are far apart more weight. Which pairs are these? Here are
# eight sentences and what somebody else wrote for them; the last two pairs are mixed up, as
# captions from the web are.

# %%
import jax.numpy as jnp
import numpy as np

import mmjax
from mmjax.losses.contrastive import info_nce
from mmjax.losses.weighting import Focal, HardNegatives, LossSoftmax

pairs = [
    ("a red apple on a plate", "a plate with a red apple"),
    ("a green apple on a plate", "a plate with a green apple"),
    ("a dog runs on the beach", "a running dog at the sea"),
    ("a train in the mountains", "mountains and a train"),
    ("a child reads a book", "a girl with a picture book"),
    ("the moon above a city", "night over the town"),
    ("a bowl of soup", "a bicycle against a wall"),
    ("an old bicycle", "hot soup"),
]
encoder = mmjax.load_encoder("asset:minilm-l6")
left, right = (np.asarray(encoder.embed_texts(list(side))) for side in zip(*pairs, strict=True))
left, right = (jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in (left, right))
print(left.shape)

# %% [markdown]
# The loss tells what it is made of: each pair's loss, how sure the model is of it, and what it
# counted for. Weights have a mean of one, so that only their spread matters.

# %%
weightings = {"none": None, "focal": Focal(2.0), "loss-softmax": LossSoftmax(0.5)}
scale = jnp.log(10.0)
told = {name: info_nce(left, right, scale, hard=hard)[1] for name, hard in weightings.items()}
print(f"{'':56s} {'loss':>6s} {'p':>6s} " + " ".join(f"{name:>12s}" for name in weightings))
for i, (text, other) in enumerate(pairs):
    weights = " ".join(f"{float(told[name].weight[i]):12.2f}" for name in weightings)
    loss, sure = float(told["none"].loss[i]), float(told["none"].probability[i])
    print(f"{text + ' | ' + other:56s} {loss:6.2f} {sure:6.2f} {weights}")

# %% [markdown]
# The pairs that are mixed up are the hardest of all, and every weighting looks at them first: where
# captions are wrong, weights teach the errors. Between the right pairs they tell siblings (the
# red apple and the green one) from what is easy.
#
# Weights may go to *negatives* instead. `HardNegatives` counts a negative by how close it is, and
# `tau_plus` says which share of the negatives is none in truth:

# %%
for beta, tau in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.1)):
    loss, _ = info_nce(left, right, scale, negatives=HardNegatives(beta, tau))
    print(f"beta {beta:.1f}  tau+ {tau:.1f}  loss {float(loss):.3f}")

# %% [markdown]
# In a recipe these are `config.weighting.pairs`, `gamma`, `temperature`, `beta` and `tau_plus`; the
# report of a `domain` run shows its hardest samples with their pictures. On the data measured so
# far no weighting helped: look at those samples before you expect one to.

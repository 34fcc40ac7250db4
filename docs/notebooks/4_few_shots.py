# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # Few shots
#
# Ten classes, a few pictures each, a frozen encoder. Handwritten digits come with scikit-learn;
# DINOv2 has never been told what a digit is.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import mmjax
from mmjax.adapters.classifiers import LinearProbe, TaskResidual, TipAdapter, zero_shot
from mmjax.data.corpora.catalog import load_corpus
from mmjax.specs.data import PairsSpec

items = load_corpus(PairsSpec(source="digits"), ("en",)).items[:400]
encoder = mmjax.load_encoder("asset:dinov2-small", image_size=56)
features = np.asarray(encoder.embed_images([item.picture("grey") for item in items]))
features = features - features.mean(axis=0)  # all digits look alike to it
features /= np.linalg.norm(features, axis=1, keepdims=True)
names = sorted({item.label for item in items})
labels = np.array([names.index(item.label) for item in items])
print(features.shape, names)

# %% [markdown]
# The first pictures of each class are the shots, all others are asked. A CLIP would bring a
# vector for each class's name; here the mean of its shots stands in, which makes `zero_shot` the
# classifier by the nearest mean.


# %%
def split(shots):
    """Row numbers of the shots, class by class, and of all other pictures."""
    chosen = np.concatenate([np.flatnonzero(labels == c)[:shots] for c in range(len(names))])
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


def known(chosen, shots):
    """What a method may know: class vectors, a temperature, the shots."""
    support = features[chosen]
    means = support.reshape(len(names), shots, -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return {"text": jnp.asarray(means), "logit_scale": jnp.log(20.0), "support": support}


# %% [markdown]
# Every method has `init` and `score`; nothing else is needed to train it.


# %%
def fit(method, frozen, chosen, steps=100):
    """Parameters after some steps on all shots at once."""
    inputs, wanted = {"features": jnp.asarray(features[chosen])}, jnp.asarray(labels[chosen])
    trainable = method.init(jax.random.key(0), frozen["known"], inputs)
    tx = optax.adamw(1e-3)

    def loss(trainable):
        logits, penalty = method.score(trainable, frozen, inputs)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
        return entropy.mean() + penalty

    @jax.jit
    def step(trainable, state):
        updates, state = tx.update(jax.grad(loss)(trainable), state, trainable)
        return optax.apply_updates(trainable, updates), state

    state = tx.init(trainable)
    for _ in range(steps):
        trainable, state = step(trainable, state)
    return trainable


methods = {
    "linear probe": LinearProbe(),
    "Tip-Adapter-F": TipAdapter(alpha=1.0, beta=5.5),
    "TaskRes": TaskResidual(0.5),
}
print(f"{'shots':>5s} {'nearest mean':>14s} " + " ".join(f"{name:>14s}" for name in methods))
for shots in (1, 4, 16):
    chosen, asked = split(shots)
    frozen = {"known": known(chosen, shots)}
    inputs = {"features": jnp.asarray(features[asked])}
    right = [np.mean(zero_shot(frozen["known"], inputs["features"]).argmax(1) == labels[asked])]
    for method in methods.values():
        logits, _ = method.score(fit(method, frozen, chosen), frozen, inputs)
        right.append(np.mean(logits.argmax(1) == labels[asked]))
    print(f"{shots:5d} " + " ".join(f"{float(r):14.3f}" for r in right))

# %% [markdown]
# One split of one seed is no comparison. The recipe `prompts_emoji` runs ten methods on several
# seeds, structured prompts among them, and asks about classes that were not trained on; your own
# pictures take three commands (the guide *few shots*).

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # Embeddings and search
#
# Frozen encoders turn pictures and texts into vectors. Nothing is trained here: this shows what
# an encoder gives, how pictures are searched by a picture, and what is in the data that mmjax
# brings.

# %%
import numpy as np

import mmjax
from mmjax.data.corpora.catalog import load_corpus
from mmjax.specs.data import PairsSpec

corpus = load_corpus(PairsSpec(source="emoji", limit=60), ("zh", "en"))
print(len(corpus.items), "emoji;", corpus.items[0].captions)

# %% [markdown]
# DINOv2-small comes with mmjax. A local folder, a file of weights or `hf:org/name` would do as
# well.

# %%
encoder = mmjax.load_encoder("asset:dinov2-small", image_size=56)
pictures = [item.picture("openmoji") for item in corpus.items]
features = encoder.embed_images(pictures)
features /= np.linalg.norm(features, axis=1, keepdims=True)
print(features.shape, features.dtype)

# %% [markdown]
# The nearest neighbours of a picture, by cosine:

# %%
for query in (0, 20, 40):
    order = np.argsort(-(features @ features[query]))[1:4]
    names = [corpus.items[int(i)].captions["en"][0] for i in order]
    print(corpus.items[query].captions["en"][0], "->", ", ".join(names))

# %% [markdown]
# Texts go through an encoder of their own. These two spaces have nothing to do with each other
# until something joins them: that is what the next notebook trains.

# %%
texts = mmjax.load_encoder("asset:minilm-l6")
vectors = texts.embed_texts(["a red apple", "a green apple", "a fast train"])
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
print(np.round(vectors @ vectors.T, 2))

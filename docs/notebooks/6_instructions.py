# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # Visual instructions, and what the router learned
#
# LaVIN's routed adapters sit in every layer of a frozen language model and of a frozen image
# encoder. A token in front of the words says whether there is a picture; each layer's router reads
# it and mixes two adapters. The recipe learns easy-VQA: questions about one coloured shape.

# %%
import numpy as np

import mmjax

few = {"train.steps": 40, "train.eval_every": 40, "train.save_every": 40}
study = mmjax.train("lavin_easyvqa:tiny", workdir="runs/notebook", **few)
study

# %% [markdown]
# Forty steps of eight rows are far too few: the whole recipe takes half an hour, and its figures
# stand on the page of results. What the tables have is the same.

# %%
for table in study.tables[:1]:
    print(table.title)
    for label, cells, _ in table.cells():
        print(f"  {label:45s}", *cells)

# %% [markdown]
# After training a router is a table: the modality token sees itself alone, so what a layer's
# router reads depends on nothing else. Here is the first adapter's share in the first layers. It
# begins at a half, and forty steps part nothing yet.

# %%
(routing,) = study.results.routing  # one seed: [layer][text, picture]
for layer, (text, picture) in enumerate(routing[:12]):
    print(f"layer {layer:2d}   text {text:.3f}   picture {picture:.3f}")

# %% [markdown]
# The adapter answers, with a picture or without one:

# %%
answering = study.adapter()
white = np.full((64, 64, 3), 255, np.uint8)
(answer,) = answering.answer(["what shape is in the image?"], [white])
print(answer.text)

# %% [markdown]
# `mmjax chat runs/notebook --image FILE` asks it in a terminal. Any other adapter takes the routed
# one's place by a setting, `instruct.adapter="lora"` say; the guide *instructions* has your own
# rows.

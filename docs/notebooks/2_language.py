# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # A language adapter in a few minutes
#
# An English image-text model learns Chinese from pairs of texts, without a picture. `mmjax.train`
# is the command `mmjax train` as a function; what one began the other ends.

# %%
import mmjax

small = {"train.steps": 20, "base.train.steps": 20}
study = mmjax.train("language_emoji:tiny", workdir="runs/notebook", **small)
study

# %% [markdown]
# Tables are plain data. The *ceiling* is the base with English names, the *floor* Chinese fed to
# the English encoder; at twenty steps no figure means anything yet.

# %%
for table in study.tables[:1]:
    print(table.title)
    for label, cells, _ in table.cells():
        print(f"  {label:40s}", *cells)

# %% [markdown]
# The adapter embeds Chinese into the English model's space, and searches its pictures:

# %%
adapted = study.adapter()
adapted.embed_texts(["红苹果", "一只猫"]).shape

# %% [markdown]
# Everything lies in one folder: recipe, metrics, checkpoints, adapter and its card, report.

# %%
sorted(path.name for path in study.workdir.iterdir())

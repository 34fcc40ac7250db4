# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # A projection with scikit-learn
#
# A small projection, trained on labels, in front of any classifier: is it worth it? Digits that
# come with scikit-learn, as raw pixels; the same works on embeddings of any encoder.

# %%
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from mmjax.sklearn import ContrastiveProjection

pixels, labels = load_digits(return_X_y=True)
parts = train_test_split(pixels[:900], labels[:900], stratify=labels[:900], random_state=0)
train_x, test_x, train_y, test_y = parts
print(train_x.shape, test_x.shape)

# %% [markdown]
# Ten epochs of supervised contrastive learning into 32 dimensions. It is a transformer as any
# other: it goes into pipelines, grids and cross-validation.

# %%
projection = ContrastiveProjection(
    "supcon", hidden=128, out_dim=32, epochs=10, standardize=True, random_state=0
)
for classifier in (DecisionTreeClassifier(random_state=0), KNeighborsClassifier()):
    raw = classifier.fit(train_x, train_y).score(test_x, test_y)
    model = make_pipeline(projection, classifier).fit(train_x, train_y)
    name = type(classifier).__name__
    print(f"{name:24s} raw {raw:.3f}   projected {model.score(test_x, test_y):.3f}")

# %% [markdown]
# Look at more than one split before you believe a difference of a point; the recipe
# `projection_digits` does, with LDA and PCA beside it.

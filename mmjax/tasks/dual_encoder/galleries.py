"""Pictures for the report: what was found for queries, and which pairs weigh most."""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mmjax.data.library import Library
from mmjax.data.records import Item
from mmjax.evals import both_ranks
from mmjax.report.class_tables import thumbnail
from mmjax.report.page import Gallery, GalleryImage, GalleryRow, HardPair, HardSamples
from mmjax.specs.recipe import Recipe
from mmjax.tasks.dual_encoder.assembly import Joined, assemble_dual_encoder
from mmjax.tasks.dual_encoder.domain import DomainTask
from mmjax.tasks.published import Published
from mmjax.tasks.reporting import trained_system
from mmjax.tasks.run import Run


def galleries(run: Run, recipe: Recipe, library: Library, count: int = 10) -> Iterator[Gallery]:
    """Ten queries that go right and ten that go wrong, of the first seed."""
    assembly, _, functions = trained_system(run, library, assemble_dual_encoder)
    system = assembly.data.test["adapted"]
    images = functions["embed_images"](system.data.images)
    texts = functions[system.text_function](system.data.texts)
    rank, _ = both_ranks(texts, images, system.data)
    language = language_of(run, recipe)
    # Spread evenly over the items that went right, and over the worst: neither list is hand-picked.
    right, wrong = np.flatnonzero(rank == 1), np.argsort(-rank, kind="stable")
    wrong = wrong[rank[wrong] > 5]
    shown = {
        "Queries that find their picture first": right[_spread(len(right), count)],
        "Queries furthest from their picture": wrong[:count],
    }
    for title, queries in shown.items():
        rows = [
            _gallery_row(int(q), texts, images, rank, assembly, recipe, language) for q in queries
        ]
        if rows:
            share = (
                f"{len(right)} of {len(rank)} queries rank their picture first (seed {run.seed})."
            )
            yield Gallery(
                title, tuple(rows), share if queries is not wrong[:count] else "", language
            )


def _spread(total: int, count: int) -> Int[np.ndarray, " k"]:
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def _gallery_row(
    query: int,
    texts: Float[np.ndarray, "n d"],
    images: Float[np.ndarray, "p d"],
    rank: Int[np.ndarray, " n"],
    assembly: Joined,
    recipe: Recipe,
    language: str,
) -> GalleryRow:
    items = assembly.data.corpus.at(assembly.data.items["test"])
    target = recipe.languages[1]
    order = np.argsort(-(images @ texts[query]), kind="stable")
    data = assembly.data.test["adapted"].data
    right = data.right(query)
    answer = int(order[np.isin(order, right)][0])  # the one that was found best

    def picture(i: int) -> GalleryImage:
        return GalleryImage(thumbnail(items[i]), _caption(items[i], target), i in right)

    glossed = language != target and data.answers is None
    return GalleryRow(
        data.queries[query],
        _caption(items[answer], target) if glossed else "",
        int(rank[query]),
        tuple(picture(int(i)) for i in order[:5]),
        picture(answer),
    )


def language_of(run: Run, recipe: Recipe) -> str:
    """The language of a run's queries."""
    return recipe.languages[0 if run.stage.text_role == "foreign" else 1]


def _caption(item: Item, language: str) -> str:
    """An item's first caption in a language; in another one where it has none in this one."""
    captions = item.captions.get(language) or next(filter(None, item.captions.values()), (item.id,))
    return captions[0]


def hard_samples(run: Run, recipe: Recipe, library: Library, count: int = 8) -> HardSamples | None:
    """What the domain's training pairs weigh before the first step and in the end.

    All of them are weighed as one batch, each with its first caption.

    Args:
      run: a finished run.
      recipe: languages.
      library: encoders and tables.
      count: how many pairs are shown.

    Returns:
      The hard samples; None where the run weighs all pairs alike.
    """
    if run.stage.task != "domain" or run.stage.weighting.pairs == "none":
        return None
    assembly, trainable = assemble_dual_encoder(run, library), run.trained(library.mesh)
    task, train = assembly.task, assembly.data.train
    assert isinstance(task, DomainTask)
    task = dataclasses.replace(task, mesh=None)  # all pairs at once need not divide over a mesh
    assert train is not None
    functions = Published(task, library.mesh).bind(trainable, assembly.frozen)
    scales = {
        "base_": task.base.logit_scale(assembly.frozen["base"]),
        "": task.logit_scale(trainable, assembly.frozen),
    }

    def weights(kind: str) -> Float[np.ndarray, " n"]:
        images = functions[f"embed_{kind}images"](train.images)
        texts = functions[f"embed_{kind}texts"](train.texts)
        captions = jnp.asarray(train.texts.rows, jnp.int32)
        _, pairs = task.pair_loss(
            jnp.asarray(images), jnp.asarray(texts), jnp.asarray(scales[kind]), captions
        )
        return np.asarray(pairs.weight)

    before, after = weights("base_"), weights("")
    items = assembly.data.corpus.at(assembly.data.items["train"])
    language = language_of(run, recipe)

    def hardest(weight: Float[np.ndarray, " n"]) -> tuple[HardPair, ...]:
        return tuple(
            HardPair(
                thumbnail(items[i]), _caption(items[i], language), float(before[i]), float(after[i])
            )
            for i in map(int, np.argsort(-weight, kind="stable")[:count])
        )

    shown = (
        f"The {len(items)} training pairs of seed {run.seed}, weighed as one batch, each with its "
        f"first caption; 1 is the mean. The heaviest {count} carry "
        f"{np.sort(before)[::-1][:count].sum() / before.sum():.0%} of the weight at the start and "
        f"{np.sort(after)[::-1][:count].sum() / after.sum():.0%} in the end."
    )
    return HardSamples(
        hardest(before), hardest(after), tuple(map(float, before)), tuple(map(float, after)), shown
    )

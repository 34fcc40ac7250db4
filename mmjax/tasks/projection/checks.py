"""What labelled items can be refused for before any encoder reads them."""

from mmjax.data.library import Library
from mmjax.data.pipeline import check_enough
from mmjax.errors import MmjaxError
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks.projection.data import check_output, classes_of


def check_labelled(stage: Stage, recipe: Recipe, seed: int, library: Library) -> None:
    """Refuses items without classes or texts, outputs that are no vectors, too large a batch."""
    corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, seed)
    classes_of(corpus)
    for role, spec in stage.encoders.items():
        check_output(role, spec, spec.output.startswith("tokens"))
    if "text" in stage.encoders and not all(
        item.captions.get(recipe.languages[1]) for item in corpus.items
    ):
        raise MmjaxError(
            f"not all items of {corpus.name} have a text in {recipe.languages[1]!r}; set "
            "--config.languages to (any, the one that they have), or leave the text encoder out"
        )
    check_enough(stage.train.batch_size, len(split["train"]))

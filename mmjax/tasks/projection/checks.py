"""What labelled items can be refused for before any encoder reads them."""

from mmjax.data.library import Library
from mmjax.data.pipeline import check_enough
from mmjax.errors import MmjaxError, check
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks.projection.data import check_features, check_output, classes_of, has


def check_labelled(stage: Stage, recipe: Recipe, seed: int, library: Library) -> None:
    """Refuses items without classes or texts, outputs that are no vectors, too large a batch."""
    corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, seed)
    classes_of(corpus)
    check_features(corpus, stage.projection.features)
    positive = stage.projection.positive
    names = sorted({item.label for item in corpus.items})
    expected = f"one of the classes of {corpus.name}, {names[:5]}"
    check(not positive or positive in names, "projection.positive", positive, expected)
    for role, spec in stage.encoders.items():
        check_output(role, spec, spec.output.startswith("tokens"))
    language = recipe.languages[1]
    if "text" in stage.encoders and not any(item.captions.get(language) for item in corpus.items):
        raise MmjaxError(
            f"no item of {corpus.name} has a text in {language!r}; set --config.languages to "
            "(any, the one that they have), or leave the text encoder out"
        )
    if "image" in stage.encoders and not any(item.images for item in corpus.items):
        raise MmjaxError(f"no item of {corpus.name} has a picture; leave the image encoder out")
    single = stage.projection.mode == "single"
    for role, values in stage.adapters.items() if single else ():
        whole = all(has(role, item, language) for item in corpus.items)
        expected = (
            f"no adapter, or projection.mode 'per_modality': some items have no {role}, in whose "
            "place a single projector reads the mean of frozen features"
        )
        check(whole, f"adapters.{role}", values.get("kind"), expected)
    check_enough(stage.train.batch_size, len(split["train"]))

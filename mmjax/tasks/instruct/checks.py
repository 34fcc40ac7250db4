"""What questions can be refused for before any encoder is loaded."""

from mmjax.data.dialogues import Dialogues
from mmjax.data.easy_vqa import Questions
from mmjax.data.library import Library
from mmjax.rng import seed_for
from mmjax.specs.spec import Stage
from mmjax.tasks.instruct.data import hold_out
from mmjax.tasks.instruct.easy_vqa import check_divides, check_held_out
from mmjax.tasks.instruct.sources import load_source


def check_questions(stage: Stage, seed: int, library: Library) -> None:
    """Reads every side of the source, and holds the sizes against it."""
    spec = stage.questions
    for side in spec.sides:
        load_source(spec, side, library)
    check_divides(stage, library)
    train = load_source(spec, spec.sides[0], library)
    if isinstance(train, Questions):
        check_held_out(spec, len(train.images))
    elif isinstance(train, Dialogues):
        hold_out(len(train.conversations), spec, seed_for(seed, "split"))

"""Where questions, problems and conversations come from."""

from typing import TypeAlias

from mmjax.data import dialogues, easy_vqa, scienceqa
from mmjax.data.library import Library
from mmjax.specs.instruct import QuestionsSpec

Source: TypeAlias = easy_vqa.Questions | scienceqa.Problems | dialogues.Dialogues


def load_source(spec: QuestionsSpec, side: str, library: Library) -> Source:
    """One side of a source, read once; dialogues have one side only."""

    def load() -> Source:
        if spec.evaluation == "scienceqa":
            return scienceqa.load(spec.source, side, spec.captions)
        if spec.evaluation == "held_out":
            return dialogues.load((spec.source, *spec.mix), spec.images, spec.skip_empty)
        return easy_vqa.load(spec.source, side)

    return library.remember(("questions", spec, side), load)

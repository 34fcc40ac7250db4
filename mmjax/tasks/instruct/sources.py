"""Where questions, problems and conversations come from."""

from typing import TypeAlias

from mmjax.data import dialogues, easy_vqa, scienceqa
from mmjax.data.library import Library
from mmjax.data.markers import markers_of
from mmjax.data.wording import Wording
from mmjax.specs.instruct import QuestionsSpec

Source: TypeAlias = easy_vqa.Questions | scienceqa.Problems | dialogues.Dialogues


def load_source(spec: QuestionsSpec, side: str, library: Library) -> Source:
    """One side of a source, read once; dialogues have one, and what is asked beside it."""

    def load() -> Source:
        if spec.evaluation == "scienceqa":
            return scienceqa.load_scienceqa(spec.source, side, spec.captions)
        if spec.evaluation == "held_out":
            sources = (spec.asked,) if side == "asked" else (spec.source, *spec.mix)
            return dialogues.load_dialogues(sources, spec.images, spec.skip_empty, spec.markers)
        return easy_vqa.load_easy_vqa(spec.source, side)

    return library.remember(("questions", spec, side), load)


def wording_of(spec: QuestionsSpec) -> Wording:
    """The words that a source of questions is learned in."""
    if spec.source.partition(":")[0] != "records":
        return Wording.of(spec)
    marks = markers_of(spec.markers)
    question = f"{marks.user}{marks.gap}{{question}}{marks.end_of('user')}{marks.assistant}"
    # The token that ends an answer is the marker without the white space behind it.
    return Wording(question, marks.gap, True, marks.end[len(marks.end.rstrip()) :])

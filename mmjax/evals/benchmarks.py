"""Every set of questions that vision-language models are measured by: reader, prompt, metrics.

A benchmark is a line in `BENCHMARKS`; tables have its columns in the same order.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmjax.data.questions.question import Question
from mmjax.data.scienceqa import LETTERS
from mmjax.data.splits import spread
from mmjax.errors import DataError, MmjaxError, shown
from mmjax.evals import measures
from mmjax.evals.measures import Measure

_MODULES = "mmjax.data.questions"


def bare(question: Question) -> str:
    """The question alone."""
    return question.text


def lettered(question: Question) -> str:
    """The question, its options with letters, and that a letter is wanted."""
    lines = [f"({k}) {option}" for k, option in zip(LETTERS, question.options, strict=False)]
    return "\n".join([question.text, *lines, "Answer with the letter of one option."])


def one_of(question: Question) -> str:
    """The question and its options, of which one is wanted."""
    return f"{question.text} Answer with one of these: {', '.join(question.options)}."


def any_of(question: Question) -> str:
    """The question and its options, of which several may be wanted."""
    return f"{question.text} Choose from these: {', '.join(question.options)}."


def briefly(question: Question) -> str:
    """The question, and that a word or two are wanted."""
    return f"{question.text}\nAnswer in a word or two."


@dataclass(frozen=True)
class Column:
    """One figure of a benchmark.

    Attributes:
      heading: in the table.
      count: questions behind the published figure; 0 where that is not said, or they are those of
        the column before.
    """

    heading: str
    count: int = 0


@dataclass(frozen=True)
class Benchmark:
    """A set of questions, how they are put and how answers count.

    Attributes:
      domain: whose table it stands in.
      title: its name.
      reader: `module:function` below `mmjax.data.questions`.
      ask: question -> prompt.
      measure: questions and answers -> figures by name.
      columns: figures that the published table has, by name.
      beside: figures that it has not.
      scored: whether options are scored by their likelihood, instead of an answer being written.
    """

    domain: str
    title: str
    reader: str
    ask: Callable[[Question], str]
    measure: Measure
    columns: Mapping[str, Column]
    beside: Mapping[str, str] = field(default_factory=dict[str, str])
    scored: bool = False

    def read(self, folder: Path) -> list[Question]:
        """Its questions.

        Args:
          folder: the data set as its reader's docstring lays it out.

        Raises:
          DataError: names the file and the row that is not as it should be.
        """
        module, _, function = self.reader.partition(":")
        questions = getattr(importlib.import_module(f"{_MODULES}.{module}"), function)(folder)
        if not questions:
            raise DataError(f"{folder} holds no question of {self.title}")
        ids: set[str] = set()
        for question in questions:
            if question.id in ids:
                raise DataError(
                    f"{folder}: the id {shown(question.id)} of {self.title} occurs twice"
                )
            ids.add(question.id)
        return questions


BIOMEDICINE, FOOD, REMOTE, LAVIN = "biomedicine", "food", "remote_sensing", "lavin"
_F1 = {"open_f1": "F1 of open answers' words"}


def _open_closed(title: str, reader: str, opened: int, closed: int) -> Benchmark:
    columns = {"open": Column(f"{title} open", opened), "closed": Column(f"{title} closed", closed)}
    full = f"biomedicine:{reader}"
    return Benchmark(BIOMEDICINE, title, full, bare, measures.open_closed, columns, _F1)


def _single(
    domain: str,
    title: str,
    reader: str,
    ask: Callable[[Question], str],
    measure: Measure,
    count: int,
    beside: Mapping[str, str] | None = None,
) -> Benchmark:
    """A benchmark of one figure."""
    columns = {"value": Column(title, count)}
    return Benchmark(domain, title, reader, ask, measure, columns, beside or {})


_scenes = "remote_sensing:scenes"
# Counts are the paper's, but for UC Merced: it prints 21,000, and the set has 2,100.
BENCHMARKS: dict[str, Benchmark] = {
    "slake": _open_closed("SLAKE", "slake", 645, 416),
    "path_vqa": _open_closed("PathVQA", "path_vqa", 3357, 3362),
    "vqa_rad": _open_closed("VQA-RAD", "vqa_rad", 179, 272),
    "pmc_vqa": _single(
        BIOMEDICINE, "PMC-VQA", "biomedicine:pmc_vqa", lettered, measures.letters, 2000
    ),
    "recipe1m": _single(FOOD, "Recipe1M", "food:recipe1m", bare, measures.rouge, 1000),
    "nutrition5k": _single(
        FOOD,
        "Nutrition5K",
        "food:nutrition5k",
        bare,
        measures.ingredients,
        507,
        {"f1": "F1 of ingredients"},
    ),
    "food101": _single(FOOD, "Food101", "food:food101", one_of, measures.numbered, 25250),
    "foodseg103": _single(FOOD, "FoodSeg103", "food:foodseg103", any_of, measures.categories, 2135),
    "clrs": _single(REMOTE, "CLRS", _scenes, one_of, measures.words, 15000),
    "uc_merced": _single(REMOTE, "UC Merced", _scenes, one_of, measures.words, 2100),
    "floodnet": _single(
        REMOTE, "FloodNet", "remote_sensing:floodnet", briefly, measures.words, 11000
    ),
    "nwpu_captions": _single(
        REMOTE, "NWPU-Captions", "remote_sensing:nwpu_captions", bare, measures.rouge, 31500
    ),
    "mme": Benchmark(
        LAVIN,
        "MME",
        "general:mme",
        bare,
        measures.mme_scores,
        {
            "perception": Column("MME perception", 2114),
            "cognition": Column("MME cognition", 260),
        },
    ),
    "truthful_qa": Benchmark(
        LAVIN,
        "TruthfulQA",
        "general:truthful_qa",
        bare,
        measures.likelihoods,
        {"mc1": Column("TruthfulQA MC1", 817), "mc2": Column("TruthfulQA MC2", 817)},
        scored=True,
    ),
    "coco_captions": Benchmark(
        LAVIN,
        "COCO captions",
        "general:coco_captions",
        bare,
        measures.captions,
        {"bleu4": Column("COCO BLEU-4", 5000), "cider": Column("COCO CIDEr")},
    ),
    "vqa_v2": Benchmark(
        LAVIN,
        "VQA v2",
        "general:vqa_v2",
        briefly,
        measures.agreement,
        {"value": Column("VQA v2")},
    ),
}


def benchmark(name: str) -> Benchmark:
    """A benchmark by name.

    Raises:
      MmjaxError: none is called so.
    """
    if name not in BENCHMARKS:
        raise MmjaxError(f"no benchmark is called {shown(name)}; one of {list(BENCHMARKS)}")
    return BENCHMARKS[name]


def chosen(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most so many questions, spread evenly; those of one group stay together.

    Args:
      questions: all of a set.
      limit: how many (0: all); the last group may go beyond it.

    Returns:
      Some of them, in their order.
    """
    return [questions[i] for i in spread([q.group or q.id for q in questions], limit)]

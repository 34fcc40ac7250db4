"""Figures of a whole set of questions, each as published scripts count it and strictly.

An answer that is missing, because its picture could not be read, counts as wrong.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from mmjax.data.questions.biomedicine import CLOSED, OPEN
from mmjax.data.questions.general import COGNITION, MC1, MC2, PERCEPTION
from mmjax.data.questions.question import Question
from mmjax.data.scienceqa import LETTERS
from mmjax.evals import answers, options, overlap
from mmjax.evals.short_answers import consensus, mme


class Both(NamedTuple):
    """One figure, in per cent but for MME's scores.

    Attributes:
      legacy: as published scripts count.
      strict: as `mmjax.evals.answers` and `mmjax.evals.options` do; the same where no script is at
        fault.
    """

    legacy: float
    strict: float


# A text, or log-probabilities of the options; None where there is no answer.
Reply: TypeAlias = str | Sequence[float] | None
Figures: TypeAlias = dict[str, Both]
Measure: TypeAlias = Callable[[Sequence[Question], Sequence[Reply], int], Figures]
# (question, answer, seed) -> figures of this answer, 0 to 1
_Judge: TypeAlias = Callable[[Question, str, int], Mapping[str, tuple[float, float]]]


def _mean(judge: _Judge) -> Measure:
    """The mean over questions of what one function says of each."""

    def measure(questions: Sequence[Question], replies: Sequence[Reply], seed: int) -> Figures:
        by_name: dict[str, list[tuple[float, float]]] = {}
        for question, reply in zip(questions, replies, strict=True):
            # What is said of an empty answer names the figures of a question that has none.
            for name, pair in judge(question, _text(reply), seed).items():
                by_name.setdefault(name, []).append((0.0, 0.0) if reply is None else pair)
        return {
            name: Both(*(100 * sum(column) / len(pairs) for column in zip(*pairs, strict=True)))
            for name, pairs in by_name.items()
        }

    return measure


def _text(reply: Reply) -> str:
    return reply if isinstance(reply, str) else ""


def _open_closed(question: Question, answer: str, seed: int) -> dict[str, tuple[float, float]]:
    truth = question.answers[0]
    if question.kind == CLOSED:
        return {
            CLOSED: (answers.legacy_closed(answer, truth), answers.strict_closed(answer, truth)),
        }
    legacy = answers.legacy_recall(answer, truth)
    recall, f1 = answers.strict_recall(answer, truth)
    return {OPEN: (legacy, recall), "open_f1": (f1, f1)}


def _letters(question: Question, answer: str, seed: int) -> dict[str, tuple[float, float]]:
    return _choice(question, answer, seed, LETTERS[: len(question.options)], shown=True)


def _numbered(question: Question, answer: str, seed: int) -> dict[str, tuple[float, float]]:
    keys = [str(i) for i in range(len(question.options))]
    return _choice(question, answer, seed, keys, shown=False)


def _choice(
    question: Question, reply: str, seed: int, keys: Sequence[str], shown: bool
) -> dict[str, tuple[float, float]]:
    right = question.options.index(question.answers[0])
    drawn = f"{seed}:{question.id}"
    legacy = options.legacy_choice(reply, question.options, keys, drawn)
    strict = options.strict_choice(reply, question.options, keys if shown else ())
    return {"value": (legacy == right, strict == right)}


def _words(question: Question, answer: str, seed: int) -> dict[str, tuple[float, float]]:
    truth = question.answers[0]
    legacy = answers.legacy_closed(answer, truth)
    if truth.lower() in ("yes", "no"):
        return {"value": (legacy, answers.strict_closed(answer, truth))}
    right = options.strict_choice(answer, question.options) == question.options.index(truth)
    return {"value": (legacy, right)}


def _rouge(question: Question, answer: str, seed: int) -> dict[str, tuple[float, float]]:
    value = overlap.rouge_l(answer, question.answers)
    return {"value": (value, value)}


def _ingredients(question: Question, answer: str, seed: int) -> dict[str, tuple[float, float]]:
    recall, f1 = answers.strict_ingredients(answer, question.answers)
    return {"value": (answers.legacy_ingredients(answer, question.answers), recall), "f1": (f1, f1)}


def _categories(question: Question, answer_text: str, seed: int) -> dict[str, tuple[float, float]]:
    truth = {question.options.index(answer) for answer in question.answers}
    legacy = answers.set_f1(options.legacy_named(answer_text, question.options), truth)
    return {"value": (legacy, answers.set_f1(options.named(answer_text, question.options), truth))}


def _agreement(question: Question, answer: str, seed: int) -> dict[str, tuple[float, float]]:
    value = consensus(answer, question.answers)
    return {"value": (value, value)}


open_closed = _mean(_open_closed)
letters = _mean(_letters)
numbered = _mean(_numbered)
words = _mean(_words)
rouge = _mean(_rouge)
ingredients = _mean(_ingredients)
categories = _mean(_categories)
agreement = _mean(_agreement)


def mme_scores(questions: Sequence[Question], replies: Sequence[Reply], seed: int) -> Figures:
    """MME's scores of perception (of 2,000) and cognition (of 800), and every subtask's accuracies.

    Args:
      questions: of any subtasks.
      replies: their answers.
      seed: not used.

    Returns:
      `perception` and `cognition`, sums over the subtasks that were asked; in per cent
      `SUBTASK_acc` and `SUBTASK_acc_plus`.
    """
    figures: Figures = {}
    for name, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
        total = [0.0, 0.0]
        for subtask in subtasks:
            answered = [
                (q, _text(s)) for q, s in zip(questions, replies, strict=True) if q.kind == subtask
            ]
            if not answered:
                continue
            truths, pictures = [q.answers[0] for q, _ in answered], [q.group for q, _ in answered]
            legacy = mme([s for _, s in answered], truths, pictures)
            strict = mme([answers.read_yes_no(s) for _, s in answered], truths, pictures)
            for key in ("acc", "acc_plus"):
                pair = Both(100 * legacy[f"mme_{key}"], 100 * strict[f"mme_{key}"])
                figures[f"{subtask}_{key}"] = pair
            total = [total[0] + legacy["mme_score"], total[1] + strict["mme_score"]]
            figures[name] = Both(*total)
    return figures


def likelihoods(questions: Sequence[Question], replies: Sequence[Reply], seed: int) -> Figures:
    """TruthfulQA's MC1 and MC2.

    Args:
      questions: with their options; `answers` are the true ones.
      replies: log-probabilities of the options.
      seed: not used.

    Returns:
      `mc1`: share of questions whose likeliest option is true; `mc2`: mean share that true options
      have of the probability of all.

    Source: Lin et al. 2022 (TruthfulQA), as its repository scores multiple choice.
    """
    values: dict[str, list[float]] = {}
    for question, reply in zip(questions, replies, strict=True):
        scores = values.setdefault(question.kind, [])
        if reply is None or isinstance(reply, str) or len(reply) != len(question.options):
            scores.append(0.0)
            continue
        best = max(reply)
        shares = [math.exp(value - best) for value in reply]
        true = [option in question.answers for option in question.options]
        if question.kind == MC1:
            scores.append(float(true[list(reply).index(best)]))
        else:
            right = sum(share for share, good in zip(shares, true, strict=True) if good)
            scores.append(right / sum(shares))
    means = {kind: 100 * sum(scores) / len(scores) for kind, scores in values.items()}
    return {kind: Both(means[kind], means[kind]) for kind in (MC1, MC2) if kind in means}


def captions(questions: Sequence[Question], replies: Sequence[Reply], seed: int) -> Figures:
    """COCO's BLEU-4 and CIDEr-D, times 100.

    Args:
      questions: their `answers` are the references.
      replies: captions.
      seed: not used.

    Returns:
      `bleu4` and `cider`.
    """
    texts, references = [_text(reply) for reply in replies], [q.answers for q in questions]
    scores = {
        "bleu4": overlap.bleu4(texts, references),
        "cider": overlap.cider_d(texts, references),
    }
    return {name: Both(100 * value, 100 * value) for name, value in scores.items()}

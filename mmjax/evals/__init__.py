"""Evaluators: they know published functions and data, no task."""

from mmjax.data.tables import View, empty_view
from mmjax.evals.accuracy import FewShot
from mmjax.evals.base import ClassSet, EvalSet, Evaluator, Functions
from mmjax.evals.retrieval import (
    Retrieval,
    TextRetrieval,
    both_ranks,
    rank_answers,
    ranks,
    recall_metrics,
)
from mmjax.evals.zeroshot import ZeroShot

__all__ = [
    "ClassSet",
    "EvalSet",
    "Evaluator",
    "FewShot",
    "Functions",
    "Retrieval",
    "TextRetrieval",
    "View",
    "ZeroShot",
    "both_ranks",
    "empty_view",
    "rank_answers",
    "ranks",
    "recall_metrics",
]

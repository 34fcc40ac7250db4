"""Evaluators: they know published functions and data, no task."""

from mmjax.evals.base import EvalSet, Evaluator, Functions, View
from mmjax.evals.fewshot import FewShot
from mmjax.evals.retrieval import Retrieval, TextRetrieval, ranks, recall_metrics
from mmjax.evals.zeroshot import ZeroShot

__all__ = [
    "EvalSet",
    "Evaluator",
    "FewShot",
    "Functions",
    "Retrieval",
    "TextRetrieval",
    "View",
    "ZeroShot",
    "ranks",
    "recall_metrics",
]

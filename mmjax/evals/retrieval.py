"""Cross-modal retrieval: R@k and mR, both directions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mmjax.evals.base import EvalSet, Functions

KS = (1, 5, 10)


def ranks(
    queries: Float[np.ndarray, "n d"],
    gallery: Float[np.ndarray, "n d"],
    same: Int[np.ndarray, " n"] | None = None,
    chunk: int = 4096,
) -> Int[np.ndarray, " n"]:
    """Rank of the right answer (gallery row i for query i), 1 the best.

    Ties count against the system: an answer that scores as high as the right one stands before it,
    so that constant embeddings do not look good.

    Args:
      queries: unit vectors.
      gallery: unit vectors, row i the answer to query i.
      same: equal numbers are right answers to each other; the best of them counts, and none of them
        stands before it. None: every row its own.
      chunk: queries scored at a time, which bounds memory to chunk x n scores.

    Returns:
      int64 ranks.
    """
    same = np.arange(len(queries)) if same is None else same
    return _ranks(queries, gallery, chunk, lambda part: same[part, None] == same[None])


def rank_answers(
    queries: Float[np.ndarray, "m d"],
    gallery: Float[np.ndarray, "n d"],
    answers: Int[np.ndarray, "a 2"],
    chunk: int = 1024,
) -> Int[np.ndarray, " m"]:
    """Rank of the best right answer where a query may have several, 1 the best.

    This is the protocol of COCO-CN, Flickr30k-CN and MUGE: a query counts at k if any of its right
    answers is among the first k. Other right answers do not stand before the best one. Ties count
    against the system, as in `ranks`; a text that stands twice in a gallery ties with itself.

    Args:
      queries: unit vectors.
      gallery: unit vectors.
      answers: (query, row of the gallery) of every right answer.
      chunk: queries scored at a time.

    Returns:
      int64 ranks; 0 for a query without any right answer.

    Source: Chinese-CLIP, cn_clip/eval/evaluation.py and evaluation_tr.py.
    """
    order = np.argsort(answers[:, 0], kind="stable")
    query_rows, gallery_rows = answers[order, 0], answers[order, 1]

    def mask(part: slice) -> np.ndarray:
        begin, end = np.searchsorted(query_rows, (part.start, part.stop))
        right = np.zeros((part.stop - part.start, len(gallery)), bool)
        right[query_rows[begin:end] - part.start, gallery_rows[begin:end]] = True
        return right

    rank = _ranks(queries, gallery, chunk, mask)
    rank[np.setdiff1d(np.arange(len(queries)), query_rows)] = 0
    return rank


def _ranks(
    queries: Float[np.ndarray, "m d"],
    gallery: Float[np.ndarray, "n d"],
    chunk: int,
    mask: Callable[[slice], Bool[np.ndarray, "q n"]],
) -> Int[np.ndarray, " m"]:
    """Ranks, chunk by chunk; `mask` says of a chunk's queries which rows answer them."""
    rank = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), chunk):
        part = slice(start, min(start + chunk, len(queries)))
        scores, answers = queries[part] @ gallery.T, mask(part)
        right = np.where(answers, scores, -np.inf).max(axis=1, keepdims=True)
        # NaN compares false and would rank first: count what is not strictly below.
        rank[part] = 1 + (~(scores < right) & ~answers).sum(axis=1)
    return rank


def both_ranks(
    texts: Float[np.ndarray, "m d"], images: Float[np.ndarray, "n d"], data: EvalSet
) -> tuple[Int[np.ndarray, " q"], Int[np.ndarray, " p"]]:
    """Ranks from text to picture and from picture to text; 0 where nothing is right."""
    if data.answers is None:
        rows = data.texts.rows
        return ranks(texts, images, rows), ranks(images, texts, rows)
    t2i = rank_answers(texts, images, data.answers)
    return t2i, rank_answers(images, texts, data.answers[:, ::-1])


def recall_metrics(rank: Int[np.ndarray, " n"], prefix: str) -> dict[str, float]:
    """R@1, R@5, R@10, their mean (mR) and the median rank, under a prefix such as `t2i`."""
    recalls = {f"{prefix}_R@{k}": float((rank <= k).mean()) for k in KS}
    mean = sum(recalls.values()) / len(KS)
    return recalls | {f"{prefix}_mR": mean, f"{prefix}_median_rank": float(np.median(rank))}


@dataclass(frozen=True)
class Retrieval:
    """Text-to-image and image-to-text retrieval.

    With one text and one picture an item, items with the same text are right answers to each other.
    With several texts a picture or pictures a text, see `rank_answers`; a picture without a text
    stands in the gallery and asks nothing.
    """

    def run(self, functions: Functions, data: EvalSet) -> dict[str, float]:
        """Returns t2i_* and i2t_* recalls and `mR`, the mean over both directions."""
        images = functions["embed_images"](data.images)
        texts = functions["embed_texts"](data.texts)
        metrics: dict[str, float] = {}
        for name, rank in zip(("t2i", "i2t"), both_ranks(texts, images, data), strict=True):
            metrics |= recall_metrics(rank[rank > 0], name)
        return metrics | {"mR": (metrics["t2i_mR"] + metrics["i2t_mR"]) / 2}


@dataclass(frozen=True)
class TextRetrieval:
    """From a query to the same query in the base's language: how well a language was mapped.

    It needs no picture, so a run that must not see any can choose its best step by it.
    """

    def run(self, functions: Functions, data: EvalSet) -> dict[str, float]:
        """Returns t2t_* recalls and `cosine_to_base`, the mean cosine of a query and its twin."""
        texts = functions["embed_texts"](data.texts)
        base = functions["embed_base_texts"](data.base_texts)
        cosine = float((texts * base).sum(axis=1).mean())
        return recall_metrics(ranks(texts, base), "t2t") | {"cosine_to_base": cosine}

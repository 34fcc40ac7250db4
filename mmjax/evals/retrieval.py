"""Cross-modal retrieval: R@k and mR, both directions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

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
    result = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk] @ gallery.T
        answers = same[start : start + chunk, None] == same[None]
        right = np.where(answers, scores, -np.inf).max(axis=1, keepdims=True)
        # NaN compares false and would rank first: count what is not strictly below.
        result[start : start + chunk] = 1 + (~(scores < right) & ~answers).sum(axis=1)
    return result


def recall_metrics(rank: Int[np.ndarray, " n"], prefix: str) -> dict[str, float]:
    """R@1, R@5, R@10, their mean (mR) and the median rank, under a prefix such as `t2i`."""
    recalls = {f"{prefix}_R@{k}": float((rank <= k).mean()) for k in KS}
    mean = sum(recalls.values()) / len(KS)
    return recalls | {f"{prefix}_mR": mean, f"{prefix}_median_rank": float(np.median(rank))}


@dataclass(frozen=True)
class Retrieval:
    """Text-to-image and image-to-text retrieval with one text and one picture an item.

    Items with the same text are right answers to each other.
    """

    def run(self, functions: Functions, data: EvalSet) -> dict[str, float]:
        """Returns t2i_* and i2t_* recalls and `mR`, the mean over both directions."""
        images = functions["embed_images"](data.images)
        texts = functions["embed_texts"](data.texts)
        metrics = recall_metrics(ranks(texts, images, data.texts.rows), "t2i")
        metrics |= recall_metrics(ranks(images, texts, data.texts.rows), "i2t")
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

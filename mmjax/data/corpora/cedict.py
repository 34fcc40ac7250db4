"""CC-CEDICT's words and what they mean, as parallel text."""

from mmjax.data import sources
from mmjax.data.records import Pair

GLOSSES = 4  # of a word that are kept


def load_cedict(limit: int) -> list[Pair]:
    """Chinese words, each with what it means in English.

    Args:
      limit: only so many, those that learners meet first (0: all).

    Returns:
      Pairs.
    """
    records = list(sources.load_source("cedict"))
    # HSK levels: what learners meet first is common; words that no list has (0) come last.
    records.sort(key=lambda record: record["common"] or 99)
    # Glosses of one word stand together in one text: which of them is meant, the word alone does
    # not say.
    return [
        Pair(record["zh"], (", ".join(sources.entries(record["glosses_en"])[:GLOSSES]),))
        for record in records[: limit or None]
    ]

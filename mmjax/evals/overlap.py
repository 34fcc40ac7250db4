"""How much of a reference a text has: ROUGE-L, BLEU-4 and CIDEr-D.

The libraries that define these (rouge-score, pycocoevalcap) are not kept any more, the latter of
104 MB and with a tokenizer in Java, so their arithmetic is written anew; tests compare.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

_ALPHANUMERIC = re.compile(r"[a-z0-9]+")
_N = 4  # longest n-gram
_SIGMA = 6.0  # of CIDEr-D's penalty on other lengths
# Words are parted as in the Penn Treebank, whose names of brackets COCO's evaluation keeps.
_PARTED = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))\b|(?<=\bcan)(not)\b|(?<=\bgon)(na)\b")
_WORD = re.compile(
    r"n't\b|'(?:s|m|d|re|ve|ll)\b|-[lr]rb-|(?:[a-z]\.){2,}|\w+(?:[-'&/.,:]\w+)*|[$%&#@/=+*]"
)

Grams = Counter[tuple[str, ...]]


def rouge_l(candidate: str, wanted: Sequence[str]) -> float:
    """F of the longest common subsequence of words, against the reference that it is best for.

    Args:
      candidate: the text.
      wanted: references.

    Returns:
      0 to 1, as rouge-score computes it without stemming.

    Source: Lin 2004 (ROUGE), section 3.
    """
    candidate_words = _ALPHANUMERIC.findall(candidate.lower())
    best = 0.0
    for reference in wanted:
        words = _ALPHANUMERIC.findall(reference.lower())
        common = _common(candidate_words, words)
        best = max(best, 2 * common / (len(candidate_words) + len(words)) if common else 0.0)
    return best


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table held as bits of one number.

    Source: Hyyrö 2004, bit-parallel LCS-length computation revisited.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        match = row & places.get(word, 0)
        row = (row + match | row - match) & full
    return len(first) - row.bit_count()


def caption_words(text: str) -> list[str]:
    """The words of a caption as COCO's evaluation has them: small letters, no punctuation.

    Its tokenizer, in Java, also keeps the period of a hundred abbreviations, such as "st."; here
    "u.s." and its like alone keep theirs.
    """
    text = text.lower().replace("’", "'").replace("(", " -lrb- ").replace(")", " -rrb- ")
    return _WORD.findall(_PARTED.sub(r" \1\2\3", text))


def bleu4(candidates: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of captions, over all of them at once.

    Args:
      candidates: n captions; an empty one counts as one without words.
      wanted: references of each.

    Returns:
      0 to 1; without smoothing, brevity being judged by the nearest length of a reference.

    Source: Papineni et al. 2002, as in COCO's caption evaluation (Chen et al. 2015).
    """
    right, made = [0] * _N, [0] * _N
    length = nearest = 0
    for text, references in zip(candidates, wanted, strict=True):
        words, others = caption_words(text), [caption_words(ref) for ref in references]
        length += len(words)
        nearest += min((abs(len(ref) - len(words)), len(ref)) for ref in others)[1]
        most: Grams = Counter()
        for ref in others:
            most |= _grams(ref)
        for gram, count in _grams(words).items():
            right[len(gram) - 1] += min(count, most[gram])
            made[len(gram) - 1] += count
    if not min(right):
        return 0.0
    mean = sum(math.log(r / m) for r, m in zip(right, made, strict=True)) / _N
    return math.exp(mean + min(0.0, 1 - nearest / length))


def cider_d(candidates: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """CIDEr-D of captions, weighed by how rare n-grams are among these references.

    Args:
      candidates: n captions.
      wanted: references of each.

    Returns:
      0 to 10; papers print it times 100. 0 for a single picture, of which no n-gram is rare.

    Source: Vedantam et al. 2015 (CIDEr, arXiv 1411.5726), section 4 and appendix.
    """
    references = [[_grams(caption_words(ref)) for ref in several] for several in wanted]
    occur = Counter(gram for several in references for gram in set().union(*several))
    rarest = math.log(len(references))

    def weigh(grams: Grams) -> list[dict[tuple[str, ...], float]]:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(_N)]
        for gram, count in grams.items():
            weights[len(gram) - 1][gram] = count * (rarest - math.log(max(1, occur[gram])))
        return weights

    total = 0.0
    for text, several in zip(candidates, references, strict=True):
        grams = _grams(caption_words(text))
        mine = weigh(grams)
        for reference in several:
            other = weigh(reference)
            gap = _bigrams(grams) - _bigrams(reference)
            alike = sum(_alike(a, b) for a, b in zip(mine, other, strict=True)) / _N
            total += alike * math.exp(-(gap**2) / (2 * _SIGMA**2)) / len(several)
    return 10 * total / len(references)


def _alike(mine: dict[tuple[str, ...], float], other: dict[tuple[str, ...], float]) -> float:
    """Cosine of two vectors of n-grams, where repeating one does not pay."""
    both = sum(min(w, other[gram]) * other[gram] for gram, w in mine.items() if gram in other)
    return both / (math.hypot(*mine.values()) * math.hypot(*other.values())) if both else 0.0


def _bigrams(grams: Grams) -> int:
    return sum(count for gram, count in grams.items() if len(gram) == 2)


def _grams(words: Sequence[str]) -> Grams:
    """N-grams of one to four words."""
    return Counter(
        tuple(words[i : i + n]) for n in range(1, _N + 1) for i in range(len(words) - n + 1)
    )

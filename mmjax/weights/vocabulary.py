"""Bounds of a vocabulary: what is made of it takes time by the square of a token's letters."""

from collections.abc import Sequence

from mmjax.checks import foreign
from mmjax.errors import WeightsError

# Letters of one token: the longest of published models are runs of a few hundred spaces.
LONGEST = 1_024
MOST_LETTERS = 1 << 22  # of all tokens; 262,144 tokens have two million
MOST = 1 << 19  # tokens, or merges
LARGEST_FILE = 1 << 24  # bytes of a tokenizer.model


def check_tokens(where: str, tokens: object) -> list[str]:
    """The tokens, if they are texts and bounded.

    Args:
      where: names them in messages.
      tokens: what a file has in their place.

    Returns:
      The tokens.

    Raises:
      MmjaxError: no list of texts, none at all, too many of them, or one too long.
    """
    if not isinstance(tokens, list) or not 0 < len(tokens) <= MOST:
        raise WeightsError(f"{where} are {foreign.shown(tokens)}; expected a list of texts")
    for i, token in enumerate(tokens):
        foreign.text(f"{where}: number {i}", token, LONGEST)
    check_lengths(where, tokens)
    return tokens


def check_lengths(where: str, tokens: Sequence[str | bytes]) -> None:
    """Refuses a vocabulary with a token of too many letters, or with too many in all.

    Args:
      where: names it in messages.
      tokens: texts, or their bytes.

    Raises:
      WeightsError: says how long they are.
    """
    longest, total = max(map(len, tokens), default=0), sum(map(len, tokens))
    if longest > LONGEST or total > MOST_LETTERS:
        raise WeightsError(
            f"{where} have {total} letters, and the longest {longest}; expected at most "
            f"{MOST_LETTERS} and {LONGEST}"
        )

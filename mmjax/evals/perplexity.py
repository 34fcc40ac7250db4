"""Perplexity of plain text: what adapters for pictures cost a language model."""

from pathlib import Path

import numpy as np

from mmjax.data import files
from mmjax.encoders.language_model import LanguageModel
from mmjax.errors import MmjaxError
from mmjax.generation.score import score
from mmjax.trees import PyTree

PYTHON = "python"
_ROWS = 8  # that are scored together


def read_text(source: str) -> str:
    """Reads the text that a language model is measured on.

    Args:
      source: a file in UTF-8, or `python`: the language reference that Python carries for its own
        `help()`. It differs a little between versions of Python.

    Returns:
      The text.

    Raises:
      MmjaxError: it cannot be read.
    """
    if source != PYTHON:
        shown = files.shown_path(Path(source))
        try:
            return files.read_text(Path(source))
        except MmjaxError as error:
            raise MmjaxError(
                f"config.questions.text: {shown} cannot be read as UTF-8 text: {error}"
            ) from error
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise MmjaxError(
            "this Python comes without its language reference; name a file by questions.text"
        ) from error
    return "\n\n".join(topics[name] for name in sorted(topics))


def perplexity(
    model: LanguageModel,
    text: str,
    adapters: PyTree = None,
    windows: int = 32,
    length: int = 128,
) -> float:
    """Perplexity of a text by tokens, in windows spread evenly over it.

    Args:
      model: with the hook that the adapters are for.
      text: what is read, as it is: no chat template, no special tokens.
      adapters: parameters for the hook.
      windows: how many are read at most.
      length: tokens of a window; of each, all but the first are foretold.

    Returns:
      e to the mean negative log-probability of a token.

    Raises:
      MmjaxError: the text is shorter than one window.
    """
    length = min(length, model.config.max_length)
    ids = model.preprocess.tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) < length:
        raise MmjaxError(f"a text of {len(ids)} tokens is too short; {length} are read at once")
    windows = min(windows, len(ids) // length)
    starts = np.linspace(0, len(ids) - length, windows).astype(int)
    rows = [ids[start : start + length] for start in starts]
    log_probs: list[np.ndarray] = []
    for at in range(0, len(rows), _ROWS):
        chunk = rows[at : at + _ROWS]
        scored = score(model, [r[:1] for r in chunk], [[r[1:]] for r in chunk], adapters)
        log_probs += [answer.token_log_probs for (answer,) in scored]
    return float(np.exp(-np.concatenate(log_probs).mean()))

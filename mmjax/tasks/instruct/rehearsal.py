"""Text that a frozen language model writes itself, learned so that adapters keep what it can do."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from mmjax import assets
from mmjax.data.conversations import Conversations
from mmjax.data.feature_cache import ELSEWHERE
from mmjax.data.layout import Encoded
from mmjax.encoders.language_model import TEXT, WORD, LanguageModel
from mmjax.errors import writing
from mmjax.generation import Sampling, generate
from mmjax.progress import track
from mmjax.rng import seed_for
from mmjax.sharding import in_every_process
from mmjax.specs.instruct import QuestionsSpec

_ROWS = 64  # that are written together
_VERSION = "1"


def own_texts(model: LanguageModel, rows: int, length: int, seed: int) -> Int[np.ndarray, "n l"]:
    """Texts as the model itself goes on from a random first token, at temperature 1.

    What is learned from them draws the adapted model to the frozen one: in expectation the
    cross-entropy of such a text is the frozen model's entropy plus the Kullback-Leibler divergence
    from it. They are kept in the cache folder, so that they are written once.

    Args:
      model: the frozen language model.
      rows: how many.
      length: tokens of each.
      seed: draws them.

    Returns:
      int32 [rows, length].

    Raises:
      MmjaxError: the cache cannot be written.

    Source:
      Liu et al. 2023 (LLM-QAT, arXiv 2305.17888), whose first few tokens are the likeliest ones.
    """
    identity = (_VERSION, model.outputs_fingerprint, rows, length, seed)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    path = assets.cache_dir() / "rehearsal" / f"{digest}.npy"
    kept = _kept(path)
    whole = in_every_process(np.array(kept is not None and kept.shape == (rows, length)))
    if kept is not None and whole:
        return kept
    special = set(model.preprocess.tokenizer.get_added_tokens_decoder())
    plain = [i for i in range(model.preprocess.tokenizer.get_vocab_size()) if i not in special]
    first = np.random.default_rng(seed).choice(plain, rows)
    written: list[np.ndarray] = []
    for at in track(range(0, rows, _ROWS), "text of the model's own"):
        prompts = [[int(i)] for i in first[at : at + _ROWS]]
        key = jax.random.fold_in(jax.random.key(seed), at)
        outputs = generate(model, prompts, length - 1, Sampling(), key, stop_token_ids=())
        written += [
            np.array([*prompt, *output.token_ids], np.int32)
            for prompt, output in zip(prompts, outputs, strict=True)
        ]
    tokens = np.stack(written)
    _keep(path, tokens)
    return tokens


def _kept(path: Path) -> Int[np.ndarray, "n l"] | None:
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):
        return None  # not there, or torn by a full disk: written again


def _keep(path: Path, tokens: Int[np.ndarray, "n l"]) -> None:
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npy")
    with writing(path, ELSEWHERE):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.save(temporary, tokens)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def rehearse(
    learned: Conversations, spec: QuestionsSpec, seed: int, language: LanguageModel
) -> Conversations:
    """Conversations with texts of the model's own among them, as text alone.

    Args:
      learned: what is learned.
      spec: how many texts, how long, and which share they take; every text stands there at least
        once.
      seed: draws them.
      language: the frozen language model.

    Returns:
      All rows, the texts behind the others; `learned` as it is where no texts are asked for.

    Raises:
      MmjaxError: as `own_texts`.
    """
    if not spec.rehearsal:
        return learned
    length = min(spec.rehearsal_length, language.preprocess.max_length - learned.first)
    texts = own_texts(language, spec.rehearsal, length, seed_for(seed, "rehearsal"))
    first = int(learned.first)
    rows = [
        Encoded(
            np.concatenate([np.zeros(first, np.int32), text]),
            np.full(first + length, WORD, np.int32),
            np.arange(first + 1, first + length, dtype=np.int32),
            TEXT,
        )
        for text in texts
    ]
    share = spec.rehearsal_share
    count = max(round(len(learned) * share / (1 - share)), len(rows))
    return replace(
        learned,
        rows=[*learned.rows, *(rows[i % len(rows)] for i in range(count))],
        images=np.concatenate([learned.images, np.full(count, WORD)]),
    )

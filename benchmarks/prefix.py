"""What does a shared prefix save, and what do labels cost beside decoding them?

A small LLaMA with random weights reads a prefix as long as a filter's examples, 1,700 tokens,
and a short prompt behind it. Generation is timed with the prefix read once, before the timing, and
with the prefix in front of every prompt. Labels behind the read prefix are timed beside a filter
that decodes two tokens and compares words, which reads whole prompts; and beside the same one with
the prefix read once, so that both savings are seen apart.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.apart import Side, compare
from benchmarks.harness import Options, Report, check_same
from mmjax.encoders import LanguageModel
from mmjax.encoders.llama import Llama
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.encoders.text_preprocess import TextPreprocess
from mmjax.generation import cache_prefix, generate, label_scores

PREFIX, PROMPT, WORDS = 1700, 100, 512
LLAMA = {
    "model_type": "llama",
    "vocab_size": WORDS,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
LABELS = ("w5", "w6", "w7")


def small_model() -> LanguageModel:
    """A language model of the words w0 .. w511 with random weights."""
    config = LlamaConfig.from_hf(LLAMA)
    module = Llama(config)
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(module.init)(jax.random.key(0), tokens, tokens)["params"]
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    preprocess = TextPreprocess(tokenizer, "", config.max_length, 0)
    return LanguageModel("small", "llama", "text", module, params, config, preprocess, "")


ONCE, EVERY = "prefix read once", "prefix in every row"
SCORED = "labels, prefix read once"


def side(kind: str, rows: int, new: int) -> Callable[[], list[Any]]:
    """One way to continue or to label prompts behind a prefix.

    Args:
      kind: `ONCE` or `EVERY`, which write, or `SCORED`.
      rows: prompts.
      new: tokens that are written.

    Returns:
      The run; it returns tokens, or scores of labels.
    """
    model, draw = small_model(), np.random.default_rng(0)
    begin = draw.integers(8, WORDS, PREFIX).tolist()
    prompts = [draw.integers(8, WORDS, PROMPT).tolist() for _ in range(rows)]
    prefix = None if kind == EVERY else cache_prefix(model, begin)
    inputs = [begin + prompt for prompt in prompts] if kind == EVERY else prompts

    def write() -> list[Any]:
        outputs = generate(model, inputs, new, stop_token_ids=(), prefix=prefix)
        return [output.token_ids.tolist() for output in outputs]

    def score() -> list[Any]:
        return label_scores(model, prompts, LABELS, prefix).tolist()

    return score if kind == SCORED else write


def run(options: Options) -> Report:
    """Times both comparisons, after checking that their sides agree.

    Args:
      options: the first of `batches` is the number of rows, else 4; `full` takes 16 rows and writes
        64 tokens, else 32.

    Returns:
      Seconds of each side.

    Raises:
      MmjaxError: the sides write different tokens.
    """
    rows, new = options.sizes((4,), (16,))[0], 64 if options.full else 32
    report = Report(samples={"rows": rows, "new": new})
    make = "benchmarks.prefix:side"
    behind = f"{rows} rows behind a prefix of {PREFIX} tokens"
    for work, kinds, count in (
        (f"{behind}, {new} tokens", (ONCE, EVERY), new),
        (f"{behind}, {len(LABELS)} labels, beside 2 tokens", (SCORED, EVERY, ONCE), 2),
    ):
        sides = [Side(kind, make, {"kind": kind, "rows": rows, "new": count}) for kind in kinds]
        comparison = compare(sides, options, _check)
        report.grids.append(comparison.grid(work))
        report.lines += comparison.lines(work)
        report.samples[work] = comparison.samples()
    return report


def _check(values: Mapping[str, Any]) -> None:
    check_same({name: value for name, value in values.items() if name != SCORED})

"""How quickly does a language model write, beside torch and llama.cpp?

All sides hold the same weights and write greedily, from the same prompts, the same number of
tokens: Hugging Face's `generate` in torch with float32 weights, llama.cpp with float32 weights and
with its 8 bits a weight, which mmjax's int8 is put beside.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.apart import Side, compare
from benchmarks.harness import Comparison, Grid, Options, Report, check_same
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.source import resolve_source
from mmjax.encoders.text_preprocess import bucket
from mmjax.generation import decode, generate
from mmjax.generation.prompts import BUCKETS
from mmjax.trees import PyTree

MODEL = "asset:smollm2-135m-instruct"
PROMPT = "Once upon a time, in a small town between two mountains, there lived an old clock maker"

Texts = list[str]


def load(quantize: str | None = None) -> LanguageModel:
    """The model that all sides hold."""
    model = load_encoder(MODEL, quantize=quantize)
    assert isinstance(model, LanguageModel)
    return model


def writing(
    model: LanguageModel, rows: int, new: int, adapters: PyTree = None
) -> Callable[[], Texts]:
    """Greedy generation here.

    Args:
      model: the model.
      rows: how often the prompt is continued at once.
      new: tokens to write.
      adapters: parameters for the model's hook.

    Returns:
      The run; it returns the new text of each row.
    """
    prompts = [model.encode_prompt(PROMPT)] * rows

    def run() -> Texts:
        outputs = generate(model, prompts, new, stop_token_ids=(), adapters=adapters)
        return [output.text for output in outputs]

    return run


def ours(rows: int, new: int, quantize: str | None = None) -> tuple[Callable[[], Texts], Any]:
    """The side of mmjax; it says what its loop of single tokens takes to compile."""
    model = load(quantize)
    return writing(model, rows, new), {"compiling": compile_seconds(model, rows, new)}


def compile_seconds(model: LanguageModel, rows: int, new: int) -> float:
    """Seconds to compile the loop of single tokens, nothing cached.

    Args:
      model: the model.
      rows: prompts.
      new: room for so many tokens.

    Returns:
      Seconds.
    """
    prepared, _ = decode.prepare(model, [model.encode_prompt(PROMPT)] * rows, new)
    padded = prepared.mask.shape[0]
    keys = jax.random.split(jax.random.key(0), padded)
    options = decode.DecodeOptions(model.module, model.mesh, bucket(new, BUCKETS), ())
    state = decode.prefill(model.params, None, prepared, None, keys, options)
    ended = np.zeros(padded, bool)
    lowered = decode.decode.lower(
        model.params, None, state, ended, new, None, keys, options=options
    )
    began = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - began


def rates(found: Comparison, rows: int, new: int) -> Grid:
    """Tokens a second of every side's best round."""
    each = [(name, f"{rows * new * 2 / min(s):.1f}") for name, s in found.seconds.items()]
    each += [
        (f"{name}: seconds to compile the loop", f"{facts['compiling']:.1f}")
        for name, facts in found.facts.items()
        if "compiling" in facts
    ]
    return Grid("Tokens a second", ("side", "best"), tuple(each))


def run(options: Options) -> Report:
    """Times greedy generation, after checking that sides with the same weights write the same.

    Args:
      options: `batches` are the numbers of rows, else 1, and 8 too where `full`; `full` writes 64
        tokens, else 16.

    Returns:
      Seconds of each side, tokens a second, and what the loop takes to compile.

    Raises:
      MmjaxError: sides with float32 weights write different texts.
    """
    new, report = 64 if options.full else 16, Report()
    for rows in options.sizes((1,), (1, 8)):
        sizes = {"rows": rows, "new": new}
        sides = [Side("mmjax", "benchmarks.decode:ours", sizes)]
        eight = [Side("mmjax, int8", "benchmarks.decode:ours", {**sizes, "quantize": "int8"})]
        if options.peer == "torch":
            torch = {**sizes, "folder": str(resolve_source(MODEL)), "prompt": PROMPT}
            sides.append(Side("transformers", "benchmarks.peers.torch_generate:side", torch))
            if rows == 1:
                cpp = "benchmarks.peers.llama_cpp:side"
                sides.append(Side("llama.cpp, f32", cpp, {"prompt": PROMPT, "new": new}))
                eight.append(
                    Side("llama.cpp, Q8_0", cpp, {"prompt": PROMPT, "new": new, "bits": 8})
                )
        comparison = compare(sides, options, check_same)
        work = f"{MODEL.removeprefix('asset:')}, {rows} rows, {new} tokens"
        report.grids += [comparison.grid(f"{work}, greedy, f32"), rates(comparison, rows, new)]
        report.lines += comparison.lines(work)
        report.samples[str(rows)] = comparison.samples()
        if rows == 1:
            # With other weights it writes other words; the first side stands beside it as it is.
            small = compare([*eight, sides[0]], options)
            report.grids += [small.grid(f"{work}, greedy, int8"), rates(small, rows, new)]
            report.lines += small.lines(f"{work}, int8")
            report.samples["int8"] = small.samples()
    return report

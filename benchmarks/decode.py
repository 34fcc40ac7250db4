"""How quickly does a language model write, beside Hugging Face's `generate` in torch?

Both sides hold the same float32 weights and write greedily, from the same prompts, the same number
of tokens.
"""

import importlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.harness import Grid, Options, Report, compare
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.source import resolve
from mmjax.encoders.text_preprocess import bucket
from mmjax.errors import MmjaxError
from mmjax.generation import decode, generate
from mmjax.generation.prompts import BUCKETS
from mmjax.trees import PyTree

MODEL = "asset:smollm2-135m-instruct"
PROMPT = "Once upon a time, in a small town between two mountains, there lived an old clock maker"

Side = Callable[[], np.ndarray]  # one round; returns the new tokens [batch, new]


def mmjax_side(
    model: LanguageModel, prompts: list[list[int]], new: int, adapters: PyTree = None
) -> Side:
    """Greedy generation here.

    Args:
      model: the model.
      prompts: token ids of each row.
      new: tokens to write.
      adapters: parameters for the model's hook.

    Returns:
      The round.
    """

    def run() -> np.ndarray:
        said = generate(model, prompts, new, stop_token_ids=(), adapters=adapters)
        return np.stack([g.token_ids for g in said])

    return run


def torch_side(folder: str, prompts: list[list[int]], new: int) -> Side:
    """Greedy generation by transformers, with its own cache.

    Args:
      folder: where the checkpoint is.
      prompts: token ids of each row, all of one length.
      new: tokens to write.

    Returns:
      The round.
    """
    from transformers import AutoModelForCausalLM

    torch: Any = importlib.import_module("torch")  # a peer to measure, not a dependency
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor(prompts)

    def run() -> np.ndarray:
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return out[:, ids.shape[1] :].numpy()

    return run


def compile_seconds(model: LanguageModel, prompts: list[list[int]], new: int) -> float:
    """Seconds to compile the loop of single tokens, nothing cached.

    Args:
      model: the model.
      prompts: token ids of each row.
      new: room for so many tokens.

    Returns:
      Seconds.
    """
    prepared, _ = decode.prepare(model, prompts, new)
    rows = prepared.mask.shape[0]
    keys = jax.random.split(jax.random.key(0), rows)
    options = decode.Options(model.module, model.mesh, bucket(new, BUCKETS), ())
    state = decode.prefill(model.params, None, prepared, None, keys, options)
    ended = np.zeros(rows, bool)
    lowered = decode.decode.lower(
        model.params, None, state, ended, new, None, keys, options=options
    )
    began = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - began


def run(options: Options) -> Report:
    """Times greedy generation, after checking that both sides write the same tokens.

    Args:
      options: the first of `batches` is the number of rows; `full` writes 64 tokens, else 16.

    Returns:
      Seconds of each side, tokens a second, and what the loop takes to compile.

    Raises:
      MmjaxError: the sides write different tokens.
    """
    (rows,), new = options.sizes((1,), (1,))[:1], 64 if options.full else 16
    model = load_encoder(MODEL)
    assert isinstance(model, LanguageModel)
    prompts = [model.encode_prompt(PROMPT)] * rows
    compiling = compile_seconds(model, prompts, new)
    sides = {"mmjax": mmjax_side(model, prompts, new)}
    if options.peer == "torch":
        sides["transformers"] = torch_side(str(resolve(MODEL)), prompts, new)
    tokens = {name: side() for name, side in sides.items()}
    if not all(np.array_equal(tokens["mmjax"], written) for written in tokens.values()):
        raise MmjaxError("the sides write different tokens, so their times say nothing")
    found = compare(sides, options.num_rounds)
    rates = [(name, f"{rows * new * 2 / min(s):.1f}") for name, s in found.seconds.items()]
    return Report(
        [
            found.grid(f"{MODEL}, {rows} rows, {new} new tokens, greedy, f32"),
            Grid(
                "Tokens a second",
                ("side", "best"),
                (*rates, ("seconds to compile the loop", f"{compiling:.1f}")),
            ),
        ],
        {**found.samples(), "compiling": compiling, "rows": rows, "new": new},
    )

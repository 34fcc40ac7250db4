"""Does a language model with a merged adapter write as quickly as the bare one?

The adapter's values are random, as after some training. A merged model has biases on queries, keys
and values that the bare one lacks, and nothing else beside it.
"""

from typing import Any

import jax
import numpy as np

from benchmarks.decode import MODEL, PROMPT, mmjax_side
from benchmarks.harness import Grid, Options, Report, compare
from mmjax.adapters.merging import merge
from mmjax.adapters.rep_adapter import RepAdapter, bind, routing_table
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import TEXT
from mmjax.errors import MmjaxError
from mmjax.trees import PyTree

ADAPTER = RepAdapter()


def trained(model: LanguageModel) -> PyTree:
    """Parameters of the adapter that change what the model says, bound to the text modality."""
    keys = jax.random.split(jax.random.key(0), 3)
    adapters = ADAPTER.init(keys[0], model.params["layers"])
    up = adapters["up"]
    up["kernel"] = 0.02 * jax.random.normal(keys[1], up["kernel"].shape)
    modality = jax.random.normal(keys[2], (2, model.hidden_size))
    return bind(adapters, routing_table(model.with_hook(ADAPTER), adapters, modality), TEXT)


def run(options: Options) -> Report:
    """Times greedy generation with the adapter merged, without it, and with it beside the weights.

    Args:
      options: the first of `batches` is the number of rows, else 1; `full` writes 64 tokens, else
        16.

    Returns:
      Seconds of each side, and tokens a second.

    Raises:
      MmjaxError: the merged model writes other tokens than the model with its adapter.
    """
    rows, new = options.sizes((1,), (1,))[0], 64 if options.full else 16
    bare = load_encoder(MODEL)
    assert isinstance(bare, LanguageModel)
    prompts = [bare.encode_prompt(PROMPT)] * rows
    adapters = trained(bare)
    routed = bare.with_hook(ADAPTER)
    sides: dict[str, Any] = {
        "merged": mmjax_side(merge(routed, adapters), prompts, new),
        "bare": mmjax_side(bare, prompts, new),
        "beside the weights": mmjax_side(routed, prompts, new, adapters),
    }
    tokens = {name: side() for name, side in sides.items()}
    if not np.array_equal(tokens["merged"], tokens["beside the weights"]):
        raise MmjaxError("merged and unmerged write different tokens: their times say nothing")
    if np.array_equal(tokens["merged"], tokens["bare"]):
        raise MmjaxError("the adapter changes nothing that is written: the comparison is empty")
    found = compare(sides, options.num_rounds)
    rates = [(name, f"{rows * new * 2 / min(s):.1f}") for name, s in found.seconds.items()]
    return Report(
        [
            found.grid(f"{MODEL} with a routed adapter, {rows} rows, {new} new tokens, f32"),
            Grid("Tokens a second", ("side", "best"), tuple(rates)),
        ],
        {**found.samples(), "rows": rows, "new": new},
    )

"""Does a language model with a merged adapter write as quickly as the bare one?

The adapter's values are random, as after some training. A merged model has biases on queries, keys
and values that the bare one lacks, and nothing else beside it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from benchmarks.apart import Side, compare
from benchmarks.decode import MODEL, Texts, load, rates, writing
from benchmarks.harness import Options, Report, check_same
from mmjax.adapters.merging import merge
from mmjax.adapters.rep_adapter import RepAdapter, bind, routing_table
from mmjax.encoders import LanguageModel
from mmjax.encoders.language_model import TEXT
from mmjax.errors import MmjaxError
from mmjax.trees import PyTree

ADAPTER = RepAdapter()
MERGED, BARE, BESIDE = "merged", "bare", "beside the weights"


def trained(model: LanguageModel) -> PyTree:
    """Parameters of the adapter that change what the model says, bound to the text modality."""
    keys = jax.random.split(jax.random.key(0), 3)
    adapters = ADAPTER.init(keys[0], model.params["layers"])
    up = adapters["up"]
    up["kernel"] = 0.02 * jax.random.normal(keys[1], up["kernel"].shape)
    modality = jax.random.normal(keys[2], (2, model.hidden_size))
    return bind(adapters, routing_table(model.with_hook(ADAPTER), adapters, modality), TEXT)


def side(kind: str, rows: int, new: int) -> Callable[[], Texts]:
    """One of the three ways; see `run`."""
    bare = load()
    if kind == BARE:
        return writing(bare, rows, new)
    adapters, routed = trained(bare), bare.with_hook(ADAPTER)
    if kind == MERGED:
        return writing(merge(routed, adapters), rows, new)
    return writing(routed, rows, new, adapters)


def check(values: Mapping[str, Any]) -> None:
    """The merged model writes what the model with its adapter writes, and the bare one does not."""
    check_same({name: values[name] for name in (MERGED, BESIDE)})
    if values[MERGED] == values[BARE]:
        raise MmjaxError("the adapter changes nothing that is written: the comparison is empty")


def run(options: Options) -> Report:
    """Times greedy generation with the adapter merged, without it, and with it beside the weights.

    Args:
      options: the first of `batches` is the number of rows, else 1; `full` writes 64 tokens, else
        16.

    Returns:
      Seconds of each side, and tokens a second.

    Raises:
      MmjaxError: the merged model writes other text than the model with its adapter.
    """
    rows, new = options.sizes((1,), (1,))[0], 64 if options.full else 16
    sizes = {"rows": rows, "new": new}
    sides = [
        Side(kind, "benchmarks.merged_decode:side", {"kind": kind, **sizes})
        for kind in (MERGED, BARE, BESIDE)
    ]
    comparison = compare(sides, options, check)
    work = f"{MODEL.removeprefix('asset:')} with a merged adapter, {rows} rows, {new} tokens"
    return Report(
        [comparison.grid(f"{work}, greedy, f32"), rates(comparison, rows, new)],
        {**comparison.samples(), **sizes},
        comparison.lines(work),
    )

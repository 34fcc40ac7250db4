"""How quickly does a language model write, beside Hugging Face's `generate` in torch?

  python -m mmjax.bench.decode [--model asset:smollm2-135m-instruct] [--rounds 5] [--batch 1]

Both sides hold the same float32 weights and write greedily, from the same prompts, the same number
of tokens, round by round in turn; the tokens are compared before anything is timed. Without torch,
its row is left out.
"""

import argparse
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.files import resolve
from mmjax.encoders.text_preprocess import bucket
from mmjax.errors import MmjaxError
from mmjax.generation import decode, generate

PROMPT = "Once upon a time, in a small town between two mountains, there lived an old clock maker"

Side = Callable[[], np.ndarray]  # one round; returns the new tokens [batch, new]


def mmjax_side(model: LanguageModel, prompts: list[list[int]], new: int) -> Side:
    """Greedy generation here.

    Args:
      model: the model.
      prompts: token ids of each row.
      new: tokens to write.

    Returns:
      The round.
    """

    def run() -> np.ndarray:
        return np.stack([g.token_ids for g in generate(model, prompts, new, stop_token_ids=())])

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
    options = decode.Options(model.module, model.mesh, bucket(new, decode.NEW_BUCKETS), ())
    state = decode.prefill(model.params, None, prepared, None, keys, options)
    ended = np.zeros(rows, bool)
    lowered = decode.decode.lower(
        model.params, None, state, ended, new, None, keys, options=options
    )
    began = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="asset:smollm2-135m-instruct", help="a LLaMA's source")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side, in turn")
    parser.add_argument("--batch", type=int, default=1, help="rows")
    parser.add_argument("--new", type=int, default=64, help="tokens to write")
    args = parser.parse_args()
    model = load_encoder(args.model)
    if not isinstance(model, LanguageModel):
        raise MmjaxError(f"{args.model} is no language model")
    prompts = [model.encode_prompt(PROMPT)] * args.batch
    compiling = compile_seconds(model, prompts, args.new)
    sides = {"mmjax": mmjax_side(model, prompts, args.new)}
    if importlib.util.find_spec("torch"):
        sides["transformers"] = torch_side(str(resolve(args.model)), prompts, args.new)
    first = {name: side() for name, side in sides.items()}  # warms up too
    same = all(np.array_equal(first["mmjax"], tokens) for tokens in first.values())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - began)
    rate = args.new * args.batch  # tokens a round
    for name, times in seconds.items():
        rates = [rate / t for t in times]
        print(f"{name:>12}: {statistics.median(rates):.2f} tokens/s ({_spread(rates)})")
    print(f"compiling the decoding loop: {compiling:.1f} s; same tokens: {same}")
    if len(sides) > 1:
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
        print(
            f"time of mmjax / transformers, median of {args.rounds} rounds: "
            f"{statistics.median(ratios):.2f} ({_spread(ratios)})"
        )


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


if __name__ == "__main__":
    main()

"""Hugging Face's `generate` in torch."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def side(folder: str, prompt: str, rows: int, new: int) -> Callable[[], list[str]]:
    """Greedy generation with transformers' own cache.

    Args:
      folder: where the checkpoint is.
      prompt: text that every row continues.
      rows: how many.
      new: tokens to write.

    Returns:
      The run; it returns the new text of each row.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(prompt)["input_ids"]] * rows)

    def run() -> list[str]:
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return tokenizer.batch_decode(out[:, ids.shape[1] :])

    return run

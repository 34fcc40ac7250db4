"""Adapters on Hugging Face's LLaMA in torch: routed ones as modules, PEFT's LoRA and DoRA."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

# mmjax.adapters.rep_adapter.RepAdapter's own; importing it would bring JAX into this process.
SCALE, TEMPERATURE, GROUPS = 1.0, 10.0, 2
# mmjax.adapters.lora.Lora's own, and its places by Hugging Face's names.
RANK, ALPHA = 8, 16
PLACES = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}

Values = Mapping[str, np.ndarray]


class Routed(nn.Module):
    """x + scale * sum_e w_e (B_e (A x + a) + b_e), w read from the row's first token."""

    def __init__(self, values: Values, layer: int) -> None:
        """Takes one layer's values.

        Args:
          values: of a `RepAdapter` in all layers, by path.
          layer: which.
        """
        super().__init__()
        places = [(part, name) for part in ("down", "up", "router") for name in ("kernel", "bias")]
        self.values = nn.ParameterDict(
            {f"{p}_{n}": _tensor(values[f"language/{p}/{n}"][layer]) for p, n in places}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What attention reads, float [b, l, d]."""
        b, l, d = x.shape
        logits = x[:, :1] @ self.values["router_kernel"] + self.values["router_bias"]
        w = torch.softmax(logits / TEMPERATURE, dim=-1)
        h = x @ self.values["down_kernel"] + self.values["down_bias"]
        h = h.reshape(b, l, GROUPS, -1)
        # Mixing the up-projections first costs a product of the width once a row, not once a token.
        kernel = torch.einsum("be,egrd->bgrd", w[:, 0], self.values["up_kernel"])
        added = torch.einsum("blgr,bgrd->blgd", h, kernel).reshape(b, l, d)
        return x + SCALE * (added + w @ self.values["up_bias"])


class Step:
    """A training step on rows of text alone; a call is a step."""

    def __init__(
        self, model: Any, learned: list[Any], batch: Values, first: Any, rate: float
    ) -> None:
        """Takes the first step.

        Args:
          model: Hugging Face's, adapted.
          learned: parameters.
          batch: the instruct task's, by name.
          first: embedding of each modality, which stands in for the first token; or None.
          rate: AdamW's.
        """
        self._model, self._first, self._losses = model, first, list[float]()
        self._optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0)
        text = {name: torch.tensor(value) for name, value in batch.items()}
        self._text = {**text, "input_ids": text["input_ids"].long()}
        mask = text["attention_mask"].bool()
        n = mask.shape[1]
        # Without a hidden token the model makes its own causal mask, for which torch is quickest.
        may = (mask[:, None] & torch.ones(n, n).tril().bool()) | torch.eye(n).bool()
        least = torch.finfo(torch.float32).min
        self._mask = (
            None if mask.all() else torch.zeros(may.shape).masked_fill(~may, least)[:, None]
        )
        self._positions = (text["attention_mask"].cumsum(1) - 1).clamp(min=0)
        self()

    def __call__(self) -> list[float]:
        """One step; returns the first two losses, of which the second shows the first update."""
        self._optimizer.zero_grad(set_to_none=True)
        words = self._model.model.embed_tokens(self._text["input_ids"])
        if self._first is not None:
            first = self._first[self._text["modality"].long()][:, None]
            words = torch.cat([first, words[:, 1:]], dim=1)
        hidden = self._model.model(
            inputs_embeds=words,
            attention_mask=self._mask,
            position_ids=self._positions,
            use_cache=False,
        ).last_hidden_state
        columns = self._text["columns"].long()[..., None].expand(-1, -1, hidden.shape[-1])
        logits = self._model.lm_head(hidden.gather(1, columns))
        loss = cross_entropy(logits.flatten(0, 1), self._text["labels"].long().flatten())
        loss.backward()
        self._optimizer.step()
        if len(self._losses) < 2:
            self._losses.append(loss.item())
        return self._losses


def routed(folder: str, start: str, rate: float) -> Step:
    """The routed adapters' side.

    Args:
      folder: the checkpoint.
      start: the batch and what is trained, from `adapter_lm.write_start`.
      rate: AdamW's.

    Returns:
      The step.
    """
    model, batch, values = _read(folder, start)
    first = nn.Parameter(_tensor(values["modality/embedding"]))
    learned: list[Any] = [first]
    for i, layer in enumerate(model.model.layers):
        adapter = Routed(values, i)
        layer.input_layernorm.register_forward_hook(_behind(adapter))
        learned += adapter.parameters()
    return Step(model, learned, batch, first, rate)


def lora(folder: str, start: str, rate: float) -> Step:
    """PEFT's LoRA on the same places, beginning with the same values.

    Args:
      folder: the checkpoint.
      start: as of `routed`.
      rate: AdamW's.

    Returns:
      The step.
    """
    return _low_rank(folder, start, rate, False)


def dora(folder: str, start: str, rate: float) -> Step:
    """PEFT's DoRA, as `lora`; the columns' lengths begin as the frozen ones on both sides."""
    return _low_rank(folder, start, rate, True)


def _low_rank(folder: str, start: str, rate: float, turns: bool) -> Step:
    from peft import LoraConfig, get_peft_model

    plain, batch, values = _read(folder, start)
    places = list(PLACES.values())
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=places, use_dora=turns)
    adapted: Any = get_peft_model(plain, config)
    learned = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    for place, theirs in PLACES.items():
        for side, letter in (("down", "A"), ("up", "B")):
            for i, kernel in enumerate(values[f"language/{place}/{side}/kernel"]):
                name = f"layers.{i}.self_attn.{theirs}.lora_{letter}.default.weight"
                with torch.no_grad():
                    learned[f"base_model.model.model.{name}"].copy_(_tensor(kernel.T))
    return Step(plain, list(learned.values()), batch, None, rate)


def _read(folder: str, start: str) -> tuple[Any, Values, Values]:
    """(the frozen model, the batch, what is trained)."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.requires_grad_(False)
    with np.load(start) as file:
        arrays = {name: file[name] for name in file.files}
    batch, values = (
        {k.removeprefix(p): v for k, v in arrays.items() if k.startswith(p)}
        for p in ("batch/", "trainable/")
    )
    return model, batch, values


def _behind(adapter: nn.Module) -> Callable[..., torch.Tensor]:
    return lambda module, given, normed: adapter(normed)


def _tensor(value: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.array(value))

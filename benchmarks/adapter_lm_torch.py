"""Routed adapters on Hugging Face's LLaMA in torch: what `adapter-lm` is measured beside."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.trees import PyTree


class Routed(nn.Module):
    """x + scale * sum_e w_e (B_e (A x + a) + b_e), w read from the row's first token."""

    def __init__(self, layer: PyTree, sizes: RepAdapter) -> None:
        """Takes one layer's values.

        Args:
          layer: the layer's slice of a `RepAdapter`'s parameters, NumPy.
          sizes: the adapter.
        """
        super().__init__()
        self.sizes = sizes
        places = [(part, name) for part in ("down", "up", "router") for name in ("kernel", "bias")]
        self.values = nn.ParameterDict({f"{p}_{n}": _tensor(layer[p][n]) for p, n in places})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What attention reads, float [b, l, d]."""
        b, l, d = x.shape
        logits = x[:, :1] @ self.values["router_kernel"] + self.values["router_bias"]
        w = torch.softmax(logits / self.sizes.temperature, dim=-1)
        h = x @ self.values["down_kernel"] + self.values["down_bias"]
        h = h.reshape(b, l, self.sizes.groups, -1)
        # Mixing the up-projections first costs a product of the width once a row, not once a token.
        kernel = torch.einsum("be,egrd->bgrd", w[:, 0], self.values["up_kernel"])
        added = torch.einsum("blgr,bgrd->blgd", h, kernel).reshape(b, l, d)
        return x + self.sizes.scale * (added + w @ self.values["up_bias"])


class TorchSide:
    """A training step of the same adapters, on the same rows."""

    def __init__(
        self, folder: str, batch: PyTree, trainable: PyTree, parts: Multimodal, rate: float
    ) -> None:
        """Loads the model, puts the adapters behind its norms and takes the first step.

        Args:
          folder: the checkpoint.
          batch: rows of text alone.
          trainable: values of what is trained.
          parts: the adapters.
          rate: AdamW's.
        """
        from transformers import AutoModelForCausalLM

        assert isinstance(parts.language, RepAdapter)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model.requires_grad_(False)
        values = {name: _numpy(trainable[name]) for name in ("language", "modality")}
        self._first = nn.Parameter(_tensor(values["modality"]["embedding"]))
        adapters = []
        for i, layer in enumerate(self._model.model.layers):
            adapter = Routed(_slice(values["language"], i), parts.language)
            layer.input_layernorm.register_forward_hook(_behind(adapter))
            adapters += adapter.parameters()
        self._optimizer = torch.optim.AdamW([self._first, *adapters], lr=rate, weight_decay=0.0)
        text = {name: torch.tensor(value) for name, value in batch["text"].items()}
        self._text = {**text, "input_ids": text["input_ids"].long()}
        mask = text["attention_mask"].bool()
        n = mask.shape[1]
        may = (mask[:, None] & torch.ones(n, n).tril().bool()) | torch.eye(n).bool()
        self._mask = torch.zeros(may.shape).masked_fill(~may, torch.finfo(torch.float32).min)[
            :, None
        ]
        self._positions = (text["attention_mask"].cumsum(1) - 1).clamp(min=0)
        self.loss = self.run()

    def run(self) -> float:
        """One step; returns the loss before it."""
        self._optimizer.zero_grad(set_to_none=True)
        words = self._model.model.embed_tokens(self._text["input_ids"])
        first = self._first[self._text["modality"].long()][:, None]
        hidden = self._model.model(
            inputs_embeds=torch.cat([first, words[:, 1:]], dim=1),
            attention_mask=self._mask,
            position_ids=self._positions,
            use_cache=False,
        ).last_hidden_state
        columns = self._text["columns"].long()[..., None].expand(-1, -1, hidden.shape[-1])
        logits = self._model.lm_head(hidden.gather(1, columns))
        loss = cross_entropy(logits.flatten(0, 1), self._text["labels"].long().flatten())
        loss.backward()
        self._optimizer.step()
        return loss.item()


def _behind(adapter: nn.Module) -> Any:
    return lambda module, given, normed: adapter(normed)


def _numpy(tree: PyTree) -> PyTree:
    return {k: _numpy(v) if isinstance(v, dict) else np.asarray(v) for k, v in tree.items()}


def _slice(tree: PyTree, i: int) -> PyTree:
    return {k: _slice(v, i) if isinstance(v, dict) else v[i] for k, v in tree.items()}


def _tensor(value: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.array(value))

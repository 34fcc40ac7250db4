"""The benchmark's peers: the same adapters in torch lose the same, and learn the same."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import adapter_lm
from benchmarks.harness import check_equal
from tests.parity.small import randomize

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    # PEFT reads what transformers 5 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

SIZES: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
SIZES |= {"intermediate_size": 80, "vocab_size": 60, "num_key_value_heads": 2}


@pytest.fixture
def small(tmp_path, write_tokenizer, monkeypatch) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    randomize(LlamaForCausalLM(LlamaConfig(**SIZES))).save_pretrained(tmp_path)
    write_tokenizer(tmp_path / "tokenizer.json")
    monkeypatch.setattr(adapter_lm, "MODEL", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("kind", [adapter_lm.ROUTED, adapter_lm.LORA])
def test_both_sides_start_and_go_on_alike(kind, small):
    from benchmarks.peers import torch_adapters

    start = small / "start.npz"
    adapter_lm.write_start(start, adapter_lm.load(), 2, kind)
    theirs = {adapter_lm.ROUTED: torch_adapters.routed, adapter_lm.LORA: torch_adapters.lora}[kind]
    mine, peer = adapter_lm.ours(kind, 2)(), theirs(str(small), str(start), adapter_lm.RATE)()
    assert len(mine) == 2
    check_equal({"mmjax": mine, "torch": peer})
    assert abs(mine[0] - mine[1]) > 1e-3  # the first update changed something

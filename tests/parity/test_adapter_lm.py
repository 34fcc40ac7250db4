"""The benchmark's peer: the same adapters as torch modules lose the same, and learn the same."""

from typing import Any

import pytest

from benchmarks import adapter_lm, harness
from benchmarks.harness import Options
from tests.parity.small import randomize

pytestmark = [pytest.mark.parity, pytest.mark.slow]

SIZES: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
SIZES |= {"intermediate_size": 80, "vocab_size": 60, "num_key_value_heads": 2}


@pytest.fixture
def small(tmp_path, write_tokenizer, monkeypatch) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    randomize(LlamaForCausalLM(LlamaConfig(**SIZES))).save_pretrained(tmp_path)
    write_tokenizer(tmp_path / "tokenizer.json")
    monkeypatch.setattr(adapter_lm, "MODEL", str(tmp_path))


def test_both_sides_start_and_go_on_alike(small, monkeypatch):
    compared = []

    def check(values: dict[str, float]) -> None:
        compared.append(values)
        harness.check_equal(values)

    monkeypatch.setattr(adapter_lm, "check_equal", check)
    samples = adapter_lm.run(Options(peer="torch", batches=(2,), rounds=1)).samples
    assert set(samples["seconds"]) == {"adapters", "all weights", "adapters in torch"}
    _, first, second = compared
    assert first["adapters"] != second["adapters"]  # the first update changed something

"""What an accelerator would be asked runs here too, and is counted as it should be."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator, instruct_memory
from benchmarks.apart import Side
from benchmarks.peers import torch_attention
from mmjax import trees
from mmjax.plan.chips import CHIPS
from mmjax.plan.encoders import abstract_encoder
from mmjax.specs.spec import EncoderSpec


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v4", "v4"),
    ],
)
def test_a_device_is_known_by_its_own_name(kind, name):
    assert accelerator.chip_of(kind) == CHIPS[name]
    assert accelerator.chip_of("cpu") is None


@pytest.mark.parity
def test_attention_is_that_of_torch():
    shape = 1, 2, 64, 16
    ours, torchs = accelerator.attention(shape)(), torch_attention.side(shape)()
    np.testing.assert_allclose(ours, torchs, rtol=0.1, atol=0.1)


def test_the_loss_decoding_and_a_step_run_and_are_counted():
    run, facts = accelerator.loss(256)
    assert 0 < run()["loss"] < np.log(256)
    assert facts["flops"] == 8 * 256**2 * 512
    run, facts = accelerator.lavin("tiny", 2, True)
    first, second = run(), run()
    assert first["loss"] == pytest.approx(second["loss"], abs=0.5)
    step = accelerator.Alone(0.5, first, facts)
    side = Side("LaVIN", "", {"size": "tiny", "rows": 2, "remat": True})
    name, seconds, rate, most, _, planned = accelerator._row("LaVIN", side, step, CHIPS["h200"], 8)
    assert (name, seconds) == ("LaVIN", "0.5000")
    assert rate == f"20 epochs in {20 * 12726 / 2 * 0.5 / 3600:.1f} h"
    assert most.endswith("MFU")
    assert float(planned) >= 0


def test_a_token_reads_all_weights_but_the_table_of_words():
    run, facts = accelerator.writing("smollm2-135m-instruct", 1, 16)
    assert facts["bytes"] == pytest.approx(2 * 134.5e6, rel=0.01), "its table is its head too"
    assert run()["seconds"] > 0
    row = accelerator._row(
        "",
        Side("m", "", {"rows": 1}),
        accelerator.Alone(1.0, {"peak": 0}, facts),
        CHIPS["h200"],
        16,
    )
    assert row[2] == "15 tokens / s"
    assert row[3].endswith("of HBM's rate")


def test_a_table_that_is_no_head_is_looked_up(mesh):
    params = abstract_encoder(EncoderSpec(source="llama-7b", dtype="bfloat16"), mesh(1)).params
    assert accelerator.bytes_read(params) == trees.nbytes(params) - 2 * 32000 * 4096


def test_rows_of_a_setting_are_told(mesh):
    few, many = (
        instruct_memory.Setting.of(
            accelerator.TINY, accelerator.TINY_CLIP, mesh(1), dtype=jnp.float32, rows=rows
        )
        for rows in (1, 3)
    )
    assert few.batch["text"]["input_ids"].shape[0] == 1
    assert many.batch["text"]["input_ids"].shape[0] == 3

"""Large stacks of layers are filled on their devices: the same parameters, less host memory."""

import json
import subprocess
import sys

import jax
import pytest
from numpy.testing import assert_array_equal

from mmjax.encoders import load_encoder
from mmjax.weights import placing


@pytest.mark.parametrize(
    ("shape", "options"), [((1, 1), {}), ((2, 2), {"quantize": "int8"}), ((2, 4), {}), ((1, 8), {})]
)
def test_streamed_parameters_are_the_same(shape, options, folder, mesh, monkeypatch):
    path = folder("llama_tiny")
    made = mesh(*shape)
    whole = load_encoder(path, mesh=made, **options)
    monkeypatch.setattr(placing, "STREAMED", 0)
    streamed = load_encoder(path, mesh=made, **options)
    assert streamed.fingerprint == whole.fingerprint
    for a, b in zip(jax.tree.leaves(streamed.params), jax.tree.leaves(whole.params), strict=True):
        assert_array_equal(a, b)
        assert (a.dtype, a.sharding.is_equivalent_to(b.sharding, a.ndim)) == (b.dtype, True)


PROBE = """
import gc, json, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models
from mmjax.encoders import load_encoder
from mmjax.weights import placing
from mmjax import sharding, trees

folder, layers, d, wide = Path(sys.argv[1]), 32, 256, 1024
shapes = {"self_attn.q_proj": (d, d), "self_attn.k_proj": (d, d), "self_attn.v_proj": (d, d)}
shapes |= {"self_attn.o_proj": (d, d), "mlp.gate_proj": (wide, d), "mlp.up_proj": (wide, d)}
shapes |= {"mlp.down_proj": (d, wide), "input_layernorm": (d,), "post_attention_layernorm": (d,)}
tensors = {
    f"model.layers.{i}.{name}.weight": np.full(shape, i + 1, np.float32)
    for i in range(layers) for name, shape in shapes.items()
}
for name, shape in {"model.embed_tokens": (8, d), "lm_head": (8, d), "model.norm": (d,)}.items():
    tensors[f"{name}.weight"] = np.ones(shape, np.float32)
save_file(tensors, folder / "model.safetensors")
del tensors
config = {"model_type": "llama", "hidden_size": d, "num_attention_heads": 4, "vocab_size": 8}
config |= {"num_hidden_layers": layers, "intermediate_size": wide}
(folder / "config.json").write_text(json.dumps(config))
Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(folder / "tokenizer.json"))

mesh = sharding.make_mesh(1, 4)

def resident():
    # What was allocated, without the pages of the file that are mapped.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def peak(limit):
    placing.STREAMED = limit
    gc.collect()
    before, highest, place = resident(), 0.0, placing._place
    def placed(*arguments):  # the moment at which the host's piece and the device's are both there
        nonlocal highest
        found = place(*arguments).block_until_ready()
        highest = max(highest, resident())
        return found
    placing._place = placed
    model = load_encoder(folder, mesh=mesh)
    placing._place = place
    assert float(model.params["layers"]["gate"]["kernel"][7, 0, 0]) == 8
    return highest - before, trees.nbytes(model.params) / 2**20

peak(8 << 20)  # compiles
streamed, final = peak(8 << 20)
whole, _ = peak(1 << 40)
print(json.dumps({"final": final, "streamed": streamed, "whole": whole}))
"""


def test_the_host_holds_little_more_than_the_parameters(tmp_path):
    """Stacks of 32 MiB on four devices: whole on the host, one of them is there a second time.

    (Seen: 131 MiB streamed and 171 whole, of 128. A CPU device may take over the host's array as it
    is, where that happens to be aligned: then whole stacks need no more, so theirs is only shown.)
    """
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print({name: f"{mib:.0f} MiB" for name, mib in found.items()})
    assert found["streamed"] < found["final"] + 16  # a stack below the limit of 8 MiB, twice

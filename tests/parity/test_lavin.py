"""LaVIN's tensors as the original's torch modules read and save them."""

import argparse

import jax
import numpy as np
import pytest

from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.interop import lavin

pytestmark = pytest.mark.parity

D, LAYERS, RANK = 32, 2, 8
_AT = "layers.{i}.adapter_attn."


def shapes(d: int) -> dict[str, tuple[int, ...]]:
    """Of one adapter, as the published checkpoints have them."""
    found: dict[str, tuple[int, ...]] = {"conv_A.weight": (RANK, d, 1), "conv_A.bias": (RANK,)}
    for name in ("conv_B", "conv_D"):
        found |= {f"{name}.weight": (d, RANK // 2, 1), f"{name}.bias": (d,)}
    return found | {"expert_weights.weight": (2, d), "expert_weights.bias": (2,)}


def test_a_checkpoint_that_torch_saved_while_training(tmp_path):
    """Its tensors, beside an optimizer that has run and the arguments; then torch's own layers."""
    import torch
    from torch.nn.functional import conv1d

    torch.manual_seed(0)
    all_shapes = {_AT.format(i=i) + n: s for i in range(LAYERS) for n, s in shapes(D).items()}
    vision = "backbone.visual.transformer.resblocks.0.adapter_attn."
    all_shapes |= {vision + n: s for n, s in shapes(16).items()}
    for name, size in (("conv_A", (6, 16)), ("conv_B", (D, 6))):
        all_shapes |= {f"adapter_proj.{name}.weight": size, f"adapter_proj.{name}.bias": size[:1]}
    all_shapes |= {"adapter_modality_embedding.weight": (2, D)}
    tensors = {
        f"module.{name}": torch.nn.Parameter(0.3 * torch.randn(size))
        for name, size in all_shapes.items()
    }
    optimizer = torch.optim.AdamW(list(tensors.values()))
    torch.stack([t.square().sum() for t in tensors.values()]).sum().backward()
    optimizer.step()
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3}
    torch.save(
        {
            **{"model": tensors, "optimizer": optimizer.state_dict(), "epoch": 19},
            **{"scaler": scaler, "args": argparse.Namespace(adapter_scale=1.0, temperature=10.0)},
        },
        tmp_path / "checkpoint-19.pth",
    )
    found = lavin.read_lavin(tmp_path / "checkpoint-19.pth")
    assert found.keys() == all_shapes.keys()
    for name, x in found.items():
        np.testing.assert_array_equal(x, tensors[f"module.{name}"].detach().numpy())

    hook = RepAdapter(rank=RANK)
    layers = [
        {"attention": {"query": {"kernel": np.zeros((n, d, d))}}} for n, d in ((2, D), (1, 16))
    ]
    own = [jax.eval_shape(hook.init, jax.random.key(0), one) for one in layers]
    projection = {"down": {"kernel": np.zeros((16, 6)), "bias": np.zeros(6)}}
    projection |= {"up": {"kernel": np.zeros((6, D)), "bias": np.zeros(D)}}
    expected = {"language": own[0], "vision": own[1], "projection": projection}
    tree = lavin.from_original(found, expected | {"modality": {"embedding": np.zeros((2, D))}})

    x = torch.randn(3, 5, D)
    t = {n: tensors[f"module.{_AT.format(i=1)}{n}"] for n in shapes(D)}
    h = conv1d(x.transpose(1, 2), t["conv_A.weight"], t["conv_A.bias"])
    w = torch.softmax((x[:, 0] @ t["expert_weights.weight"].T + t["expert_weights.bias"]) / 10, -1)
    ups = [conv1d(h, t[f"{n}.weight"], t[f"{n}.bias"], groups=2) for n in ("conv_B", "conv_D")]
    theirs = x + sum(w[:, e, None, None] * up.transpose(1, 2) for e, up in enumerate(ups))
    one = jax.tree.map(lambda leaf: leaf[1], tree["language"])
    ours = hook.adapt(one, jax.numpy.asarray(x.numpy()))
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=2e-5)

    lavin.save(tmp_path / "back.safetensors", tree)
    from safetensors.torch import load_file

    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == all_shapes.keys()
    assert all(torch.equal(x, tensors[f"module.{name}"]) for name, x in back.items())

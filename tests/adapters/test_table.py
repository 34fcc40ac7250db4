"""Every kind of adapter in every kind of encoder: a row more of either is held to all of this."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mmjax import optim, sharding, trees
from mmjax.adapters.adaptformer import AdaptFormer
from mmjax.adapters.bitfit import BitFit
from mmjax.adapters.dora import DoRA
from mmjax.adapters.full import Full
from mmjax.adapters.hooks import start
from mmjax.adapters.houlsby import Houlsby
from mmjax.adapters.ia3 import IA3
from mmjax.adapters.layer_norm import LayerNormTuning
from mmjax.adapters.lora import Lora
from mmjax.adapters.merging import merge
from mmjax.adapters.olora import OLoRA
from mmjax.adapters.pfeiffer import Pfeiffer
from mmjax.adapters.pissa import PiSSA
from mmjax.adapters.prefix_tuning import PrefixTuning
from mmjax.adapters.prompt_tuning import PromptTuning
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.adapters.rslora import RsLora
from mmjax.adapters.ssf import SSF
from mmjax.adapters.vera import VeRA
from mmjax.adapters.vpt import VPT
from mmjax.adapters.weights import Weights
from mmjax.encoders import Encoder, load_encoder
from mmjax.encoders.layers import WeightHook
from mmjax.encoders.output import apply
from mmjax.errors import MmjaxError
from mmjax.runs import adapter_files
from mmjax.specs.adapters import ADAPTERS
from mmjax.specs.spec import OptimSpec
from tests.adapters.programs import dots

IDS = np.array([[5, 40, 30, 45, 49], [7, 8, 49, 1, 1]] * 4, np.int32)  # 49: CLIP sees an end
MASK = np.array([[1] * 5, [1, 1, 1, 0, 0]] * 4, np.int32)
NO_PLACE = "no part of a frozen map"
ACTIVATION = "between its two maps stands"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A row.

    Attributes:
      adapter: the adapter.
      same: whether the model is unchanged at first; by their papers tokens and prefixes change it.
      merges: None, or what its refusal says.
      without: encoders that it cannot be in, and what the refusal says.
    """

    adapter: Any
    same: bool = True
    merges: str | None = None
    without: dict[str, str] = dataclasses.field(default_factory=dict)


KINDS = {
    "lora": Kind(Lora(rank=2, targets=("(query|value)", ".*(1|up|intermediate)"))),
    "rslora": Kind(RsLora(rank=2)),
    "dora": Kind(DoRA(rank=2)),
    "pissa": Kind(PiSSA(rank=2)),
    "olora": Kind(OLoRA(rank=2)),
    "vera": Kind(VeRA(rank=3)),
    "ia3": Kind(IA3()),
    "ssf": Kind(SSF()),
    "bitfit": Kind(BitFit(), without={"llama": "no parameter has such a path"}),
    "layer_norm": Kind(LayerNormTuning()),
    "weights": Kind(Weights((r"layers/1/.*",))),
    "full": Kind(Full()),
    "houlsby": Kind(Houlsby(4, dropout=0.1), merges=ACTIVATION),
    "pfeiffer": Kind(Pfeiffer(4), merges=ACTIVATION),
    "adaptformer": Kind(AdaptFormer(4), merges=ACTIVATION),
    "rep_adapter": Kind(RepAdapter(rank=4, experts=1, feed_forward=True)),
    "prefix_tuning": Kind(PrefixTuning(3), same=False, merges=NO_PLACE),
    "prompt_tuning": Kind(PromptTuning(3), same=False, merges=NO_PLACE),
    "vpt": Kind(VPT(2, deep=True), same=False, merges=NO_PLACE),
}
# A norm that follows at once sums y + 0 in another order: all but the last bit.
LAST_BIT = {("ia3", "bert")}
ENCODERS = {  # golden, tower
    "bert": ("bert_tiny", None),
    "clip's texts": ("clip_tiny", "text"),
    "clip's images": ("clip_tiny", "image"),
    "dinov2": ("dinov2_tiny", None),
    "llama": ("llama_tiny", None),
}
# CLIP's two towers and DINOv2 are one kind of layer: every adapter sits in one of them, in turn.
ALIKE = ("clip's texts", "clip's images", "dinov2")
CELLS = [(kind, name) for name in ("bert", "llama") for kind in KINDS]
CELLS += [(kind, ALIKE[i % len(ALIKE)]) for i, kind in enumerate(KINDS)]


def turn(by: int) -> list[tuple[str, str]]:
    """Every kind with one of the encoders, in turn: what costs a program more."""
    names = list(ENCODERS)
    cells = [(kind, names[(i + by) % len(names)]) for i, kind in enumerate(KINDS)]
    return [(kind, name) for kind, name in cells if name not in KINDS[kind].without]


def test_the_table_has_every_kind():
    assert set(KINDS) == set(ADAPTERS)
    assert {type(kind.adapter).__module__ for kind in KINDS.values()} == {
        reference.partition(":")[0] for reference in ADAPTERS.values()
    }


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, write_folder) -> Callable[..., Encoder]:
    """Returns `loaded(name, **options)`: an encoder of the table, read once."""

    @functools.cache
    def folder(golden: str) -> Any:
        return write_folder(tmp_path_factory.mktemp(golden), golden)

    @functools.cache
    def load(name: str, **options: Any) -> Encoder:
        golden, tower = ENCODERS[name]
        return load_encoder(folder(golden), tower=tower, **options)

    return load


def inputs_of(encoder: Encoder) -> dict[str, Any]:
    if encoder.modality == "text":
        return {"input_ids": IDS, "attention_mask": MASK}
    side = encoder.config.image_size
    pixels = np.random.default_rng(2).standard_normal((8, side, side, 3)).astype(np.float32)
    return {"pixel_values": pixels}


@functools.cache
def _program(module: Any, pooling: Any, tuning: Any) -> Any:
    def run(params: Any, inputs: Any, adapters: Any) -> Any:
        if tuning is not None:
            params, adapters = tuning.tuned(params, adapters), None
        return apply(module, pooling, params, inputs, adapters).tokens

    return jax.jit(run)


def says(model: Encoder, adapters: Any = None) -> np.ndarray:
    """The tokens of an encoder, by a program that computes nothing else."""
    run = _program(model.module, model.pooling, model.tuning)
    return np.asarray(run(model.params, inputs_of(model), adapters))


def loss_of(model: Encoder, adapters: Any, params: Any, inputs: Any) -> tuple[Any, Any]:
    tokens = model.apply(params, inputs, adapters).tokens
    return jnp.sin(tokens).sum(), tokens


def step_of(model: Encoder, tx: Any) -> Any:
    """`step(adapters, state, params, inputs)` -> (tokens, adapters, state)."""

    @jax.jit
    def step(adapters: Any, state: Any, params: Any, inputs: Any) -> Any:
        found = jax.grad(functools.partial(loss_of, model), has_aux=True)
        gradients, tokens = found(adapters, params, inputs)
        updates, state = tx.update(gradients, state, adapters)
        return tokens, optax.apply_updates(adapters, updates), state

    return step


def moved(adapters: Any) -> Any:
    """The same tree elsewhere, but for what nobody trains."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x, learns: x + learns * jnp.asarray(random.normal(0, 0.1, x.shape), x.dtype),
        adapters,
        optim.trained(adapters),
    )


@pytest.mark.parametrize(("name", "encoder"), CELLS)
def test_a_cell(name, encoder, loaded, tmp_path, whole_card):
    kind, frozen = KINDS[name], loaded(encoder)
    hook, before = kind.adapter, trees.fingerprint(frozen.params)
    if encoder in kind.without:
        with pytest.raises(MmjaxError, match=kind.without[encoder]):
            start(hook, jax.random.key(0), frozen)
        return
    model, first = frozen.with_hook(hook), start(hook, jax.random.key(0), frozen)
    spec = OptimSpec(lr=0.02, weight_decay=0.1, schedule="constant")
    tx, _ = optim.make_optimizer(spec, first, 3)
    step, state, adapters = step_of(model, tx), tx.init(first), first

    # At first the frozen model; then another one, by every parameter that learns, and none other.
    said = []
    for _ in range(3):  # where one factor starts at zero the other one moves a step later
        tokens, adapters, state = step(adapters, state, frozen.params, inputs_of(frozen))
        said.append(np.asarray(tokens))
    assert step._cache_size() == 1
    same = functools.partial(assert_allclose, atol=1e-6)
    check = same if (name, encoder) in LAST_BIT else assert_array_equal
    if kind.same:
        check(says(model, first), says(frozen))
        assert_allclose(said[0], says(frozen), atol=1e-5)
    assert np.abs(said[2] - says(frozen)).max() > 1e-5
    changed = {
        path: bool((a != b).any())
        for (path, a), (_, b) in zip(
            trees.named_leaves(first), trees.named_leaves(adapters), strict=True
        )
    }
    silent = {path for path, leaf in trees.named_leaves(first) if unread(encoder, path, leaf)}
    learns = dict(trees.named_leaves(optim.trained(first)))
    assert {p: c for p, c in changed.items() if p not in silent} == {
        p: c for p, c in learns.items() if p not in silent
    }
    assert trees.fingerprint(frozen.params) == before

    # No gradient of a frozen kernel is computed.
    if not isinstance(hook, WeightHook):
        loss = functools.partial(loss_of, model)
        gradient = jax.grad(loss, has_aux=True)
        program = jax.make_jaxpr(gradient)(adapters, frozen.params, inputs_of(frozen)).jaxpr
        kernels = {x.shape[-2:] for p, x in trees.named_leaves(frozen.params) if "kernel" in p}
        own = {x.shape[-2:] for x in jax.tree.leaves(adapters)}
        assert not dots(program) & {s[::-1] for s in kernels if s not in own and s[::-1] not in own}

    # Saved, loaded, merged.
    adapter_files.save_adapter(tmp_path / "adapter", adapters, whole_card("instruct"))
    again, _ = adapter_files.load_adapter_params(tmp_path / "adapter")
    assert trees.fingerprint(again) == trees.fingerprint(jax.device_get(adapters))
    if kind.merges is not None:
        with pytest.raises(MmjaxError, match=kind.merges):
            merge(model, adapters)
        return
    other = moved(adapters)
    assert_allclose(says(merge(model, other)), says(model, other), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "encoder", "shape"),
    [(*cell, ((2, 1), (4, 2))[i % 2]) for i, cell in enumerate(turn(1))],
)
def test_a_mesh_changes_nothing(name, encoder, shape, loaded, mesh):
    hook, plain = KINDS[name].adapter, loaded(encoder)
    split = loaded(encoder, mesh=mesh(*shape))
    adapters = moved(start(hook, jax.random.key(0), plain))
    model = split.with_hook(hook)
    placed = sharding.place_batch({"x": inputs_of(plain)}, split.mesh, 8)["x"]
    run = _program(model.module, model.pooling, model.tuning)
    found = run(split.params, placed, sharding.place(adapters, split.mesh))
    assert_allclose(found, says(plain.with_hook(hook), adapters), atol=1e-5)


@pytest.mark.parametrize(("name", "encoder"), turn(2))
def test_rounded_kernels_take_it_but_are_not_merged(name, encoder, loaded):
    kind, small = KINDS[name], loaded(encoder, quantize="int8")
    hook = kind.adapter
    if name in ("weights", "full"):
        with pytest.raises(MmjaxError, match="quantised weights cannot be trained"):
            start(hook, jax.random.key(0), small)
        return
    model, adapters = small.with_hook(hook), start(hook, jax.random.key(0), small)
    if kind.same:  # in float32; rounded kernels are multiplied in another order around a hook
        assert_allclose(says(model, adapters), says(small), atol=5e-6)
    assert np.abs(says(model, moved(adapters)) - says(small)).max() > 1e-5
    if not isinstance(hook, WeightHook):
        with pytest.raises(MmjaxError, match="load the model without it"):
            merge(model, adapters)


def unread(encoder: str, path: str, leaf: Any) -> bool:
    """Parameters that no output depends on: tables' unused rows aside, of heads that are not asked.

    A softmax sees nothing that is added to all of its scores alike: a key's bias.
    """
    return ("key/" in path and path.endswith(("bias", "shift"))) or path.startswith(
        ("lm_head", "pooler", "projection", "norm")
        if encoder.startswith("clip's im")
        else ("lm_head", "projection")
    )

"""What is in an instruct step and what is not: its equations, its compiler's plan, its shapes."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core
from jax.sharding import AbstractMesh, AxisType

from benchmarks import instruct_memory
from benchmarks.instruct_memory import CLIP_L, GB, LANGUAGE, Setting, share, unsplit
from mmjax import trees

# Widths that no other axis has, so that a product's shape says whose gradient it is.
LLAMA = {
    "model_type": "llama",
    "vocab_size": 130,
    "hidden_size": 24,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CLIP = {
    "model_type": "clip",
    "projection_dim": 18,
    "vision_config": {
        "hidden_size": 20,
        "intermediate_size": 52,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
}


def meshed(data: int, model: int) -> AbstractMesh:
    return AbstractMesh((data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def tiny(**options: Any) -> Setting:
    return Setting.of(LLAMA, CLIP, meshed(1, 1), jnp.float32, **options)


def equations(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """All equations, those of inner functions and loops too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from equations(getattr(inner, "jaxpr", inner))


def _is_jaxpr(x: Any) -> bool:
    return isinstance(x, core.Jaxpr | core.ClosedJaxpr)


def products(closed: core.ClosedJaxpr) -> set[tuple[int, ...]]:
    """Shapes of what matrix products give."""
    dots = (e for e in equations(closed.jaxpr) if e.primitive.name == "dot_general")
    return {tuple(dot.outvars[0].aval.shape) for dot in dots}


def kernels(frozen: Any) -> set[tuple[int, ...]]:
    """Shapes that a layer's kernels, the table of words and the head have, either way round."""
    found = set()
    for path, leaf in trees.named_leaves(frozen):
        if path.endswith(("kernel", "embedding")):
            shape = leaf.shape[1:] if "layers/" in path else leaf.shape
            if path.endswith("patch_kernel"):  # multiplied as a matrix
                shape = (leaf.shape[0] * leaf.shape[1] * leaf.shape[2], leaf.shape[3])
            found |= {tuple(shape), tuple(shape[::-1])}
    return found


@pytest.mark.parametrize("remat", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_product_is_a_frozen_kernels_gradient(remat):
    setting = tiny(remat=remat)
    wanted = kernels(setting.frozen)
    step = jax.make_jaxpr(setting.step)(setting.state, setting.frozen, setting.batch)
    assert not products(step) & wanted

    # The same search finds them all where everything is differentiated.
    def both(params: Any, batch: Any) -> Any:
        trainable, frozen = params
        return setting.task.loss(trainable, frozen, batch, jax.random.key(0))[0]

    params = setting.state.trainable, setting.frozen
    everything = jax.make_jaxpr(jax.grad(both))(params, setting.batch)
    found = products(everything) & wanted
    layers = {s for p, x in trees.named_leaves(setting.frozen) if "layers/" in p for s in [x.shape]}
    per_layer = {tuple(s[1:]) for s in layers if len(s) == 3}
    assert all({s, s[::-1]} & found for s in per_layer)


def read(setting: Setting, batch: Any) -> set[str]:
    """Paths of frozen leaves that any equation of the step reads."""
    arguments = (setting.state, setting.frozen, batch)
    (call,) = jax.make_jaxpr(setting.step)(*arguments).eqns
    inner = call.params["jaxpr"].jaxpr
    used = {id(v) for e in inner.eqns for v in e.invars}
    paths = [path for path, _ in trees.named_leaves(arguments)]
    return {path for path, v in zip(paths, inner.invars, strict=True) if id(v) in used}


def test_text_alone_reads_nothing_of_the_vision_transformer():
    setting = tiny()
    with_picture = read(setting, setting.batch)
    alone = read(setting, {"text": setting.batch["text"]})
    assert any(path.startswith("1/image/layers/") for path in with_picture)
    assert not any(path.startswith("1/image/") for path in alone)
    assert any(path.startswith("1/language/layers/") for path in alone)


@pytest.mark.slow
def test_recomputed_layers_take_a_fraction_of_the_memory():
    deep = {**LLAMA, "num_hidden_layers": 24, "hidden_size": 64, "intermediate_size": 160}

    def temporary(remat: bool) -> int:
        setting = Setting.of(deep, CLIP, instruct_memory.mesh_of(1, 1), jnp.float32, remat=remat)
        batch = {"text": setting.batch["text"]}
        program = setting.step.lower(setting.state, setting.frozen, batch).compile()
        memory = program.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    kept, again = temporary(False), temporary(True)
    print(f"temporary bytes: layers kept {kept:,}, computed again {again:,}")
    assert again < 0.3 * kept


@pytest.mark.parametrize(
    ("name", "int8"),
    [
        ("7B", False),
        ("13B", True),
        pytest.param("7B", True, marks=pytest.mark.slow),
        pytest.param("13B", False, marks=pytest.mark.slow),
    ],
)
def test_what_a_device_holds_at_full_size(name, int8):
    parameters = {"7B": 3_781_296, "13B": 5_390_080}[name]
    ceilings = {(1, 1): 141 * GB, (8, 1): 80 * GB, (1, 8): 80 * GB, (32, 8): 80 * GB}
    whole = 0
    for (data, model), ceiling in ceilings.items():
        setting = Setting.of(LANGUAGE[name], CLIP_L, meshed(data, model), int8=int8)
        assert trees.count(setting.state.trainable) == parameters
        held, state = share(setting.frozen), share(setting.state)
        print(f"{name} int8={int8} {data} x {model}: frozen {held:,} bytes, state {state:,} bytes")
        assert parameters * 12 <= state < parameters * 12 + 100  # nothing beside Adam's two moments
        assert held + state < ceiling / 2  # the rest is for activations
        whole = held if model == 1 else whole
        if model > 1:
            assert unsplit(setting.frozen) == []
            assert held < whole / model * 1.02


def test_a_large_leaf_that_lies_whole_is_found():
    assert unsplit(Setting.of(LANGUAGE["7B"], CLIP_L, meshed(8, 1)).frozen) != []


@pytest.mark.parametrize(
    ("data", "model"),
    [(32, 8), *(pytest.param(1, n, marks=pytest.mark.slow) for n in (1, 8))],
)
def test_the_step_is_lowered_for_devices_that_are_not_there(data, model):
    setting = Setting.of(LANGUAGE["7B"], CLIP_L, meshed(data, model), int8=True)
    text = setting.lower().as_text()
    assert f"num_partitions = {data * model}" in text
    assert text.count("stablehlo.dot_general") < 120  # a layer's of each tower: depth adds nothing

"""What a hook is told of the frozen map that it sits at, for adapters that rescale the map."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.encoders import Encoder, load_encoder
from mmjax.encoders.vision import class_tokens
from mmjax.weights.quantize import KERNEL, PARTS, dequantized
from tests.adapters.numpy_mma import PLAIN_ROPE

SOURCES = {
    "llama": ("llama_tiny", {}),
    "llama in int8": ("llama_tiny", {"quantize": "int8"}),
    "vit": ("vit_tiny", {}),
}
# Both of attention's kinds of map, and one of the feed-forward part.
TARGETS = {"llama": ("query", "out", "down"), "vit": ("query", "out", "fc2")}


@pytest.fixture(scope="module", params=SOURCES)
def encoder(request, tmp_path_factory, write_folder) -> Encoder:
    name, options = SOURCES[request.param]
    config = PLAIN_ROPE if name == "llama_tiny" else {}
    path = write_folder(tmp_path_factory.mktemp("encoder"), name, config=config)
    return load_encoder(path, **options)


def rescaled(own, kernel):
    """DoRA's kernel: columns of a length of their own, in the direction of W + B A."""
    moved = kernel + own["down"] @ own["up"]
    return own["magnitude"] * moved / jnp.linalg.norm(moved, axis=-2, keepdims=True)


def dora(adapter, place, x, y, kernel):
    if place not in adapter:
        return y
    assert kernel.dtype == jnp.float32
    return y + (x @ (rescaled(adapter[place], kernel) - kernel)).astype(y.dtype)


def in_float(params):
    """The same parameters with every kernel as the float matrix that it stands for."""
    if KERNEL in params:
        kept = {name: leaf for name, leaf in params.items() if name not in PARTS}
        return kept | {KERNEL: dequantized(params)}
    return {n: in_float(x) if isinstance(x, Mapping) else x for n, x in params.items()}


def with_kernels(layers, adapters):
    """Frozen layers in which the adapted kernels stand for the old ones."""
    layers = {**layers, "attention": dict(layers["attention"])}
    for place, own in adapters.items():
        owner = layers["attention"] if place in layers["attention"] else layers
        owner[place] = {**owner[place], KERNEL: rescaled(own, owner[place][KERNEL])}
    return layers


@functools.partial(jax.jit, static_argnums=(0, 1))
def say(encoder_module, reads, params, adapters):
    """What a module says of the same three texts or two pictures; one program a module."""
    random = np.random.default_rng(0)
    if reads == "image":
        pixels = random.standard_normal((2, 20, 20, 3)).astype(np.float32)
        return class_tokens(encoder_module, params, jnp.asarray(pixels), adapters)
    x = jnp.asarray(random.standard_normal((3, 5, 32)).astype(np.float32))
    given = x, jnp.ones((3, 5), int), None, None, adapters
    return encoder_module.apply({"params": params}, *given, method="extend")[0]


def module_of(encoder, hook):
    return encoder.module.clone(hook=hook, parent=None)


def made(encoder, layers):
    """DoRA's parameters away from their start."""
    random, adapters = np.random.default_rng(1), {}
    for place in TARGETS[encoder.family]:
        owner = layers["attention"] if place in layers["attention"] else layers
        n, width_in, width_out = owner[place][KERNEL].shape
        shapes = {"down": (n, width_in, 2), "up": (n, 2, width_out), "magnitude": (n, 1, width_out)}
        adapters[place] = {
            name: jnp.asarray(
                random.standard_normal(shape) * 0.3 + (name == "magnitude"), "float32"
            )
            for name, shape in shapes.items()
        }
    return adapters


def test_an_adapter_that_rescales_the_kernel_is_its_dense_formula(encoder):
    plain = in_float(encoder.params)
    adapters = made(encoder, plain["layers"])
    ours = say(module_of(encoder, dora), encoder.modality, encoder.params, adapters)
    dense = {**plain, "layers": with_kernels(plain["layers"], adapters)}
    assert_allclose(ours, say(encoder.module, encoder.modality, dense, None), atol=2e-5)
    before = say(encoder.module, encoder.modality, plain, None)
    assert np.abs(ours - before).max() > 1e-2


def test_the_magnitude_gets_a_gradient_that_the_kernel_is_part_of(encoder):
    adapters = made(encoder, in_float(encoder.params)["layers"])

    @jax.jit
    @jax.grad
    def gradient(adapters, params):
        return jnp.square(say(module_of(encoder, dora), encoder.modality, params, adapters)).sum()

    found = gradient(adapters, encoder.params)
    for place, own in found.items():
        for name, leaf in own.items():
            assert (np.abs(leaf).max(axis=(1, 2)) > 0).all(), (place, name)  # every layer's


def test_every_map_comes_with_its_kernel_and_what_is_no_map_with_none(encoder):
    seen = {}

    def noted(adapter, place, x, y, kernel):
        told = None if kernel is None else (kernel.dtype, kernel.shape)
        seen[place] = told, (x.shape[-1], y.shape[-1])
        return y

    jax.eval_shape(
        functools.partial(say, module_of(encoder, noted), encoder.modality), encoder.params, None
    )
    no_maps = {place for place, (told, _) in seen.items() if told is None}
    assert no_maps == {
        *("layer_input", "attention_input", "attention_output"),
        *("feed_forward_input", "feed_forward_output"),
    }
    assert {"query", "key", "value", "out"} < seen.keys() - no_maps
    for place in seen.keys() - no_maps:
        told, widths = seen[place]
        assert told == (jnp.float32, widths), place


def test_a_kernel_that_nobody_reads_costs_nothing(encoder):
    """No float copy of an int8 kernel is made for adapters that do not ask for one."""

    def reading(adapter, place, x, y, kernel):
        return y if kernel is None else y + (0 * kernel.sum()).astype(y.dtype)

    def cost(hook):
        module = module_of(encoder, hook)
        program = say.lower(module, encoder.modality, encoder.params, None).compile()
        found: Any = program.cost_analysis()
        memory: Any = program.memory_analysis()
        return found["flops"], found["bytes accessed"], memory.temp_size_in_bytes

    plain = cost(None)
    assert cost(lambda adapter, place, x, y, kernel: y) == plain
    assert cost(reading)[0] > plain[0]  # so that the test could fail

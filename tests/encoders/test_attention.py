"""Attention equals its slow twin, whatever computes it, and makes no array of queries x keys."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.encoders import attention
from mmjax.encoders.attention import Kernel, Mask, attend, dense
from mmjax.errors import MmjaxError

B, L, C = 2, 9, 8
LENGTHS = np.array([9, 6])


def arrays(heads=4, shared=2, length=L, channels=C):
    draw = np.random.default_rng(0)
    shapes = ((B, heads, length, channels), *((B, shared, length, channels),) * 2)
    return tuple(jnp.asarray(draw.standard_normal(shape), jnp.float32) for shape in shapes)


def padded(length=L, first=0):
    """1 up to each row's length, but for the first columns."""
    columns = np.arange(length)
    ends = LENGTHS * length // L
    return jnp.asarray((columns < ends[:, None]) & (columns >= first))


def texts(length=L):
    """Three texts in the first row, two in the second."""
    return jnp.asarray(np.array([[0, 0, 1, 1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 1, 1, 1, 1, 1]]))[
        :, np.arange(length) * L // length
    ]


MASKS = {
    "all": lambda n: Mask(),
    "causal": lambda n: Mask(causal=True),
    "lengths": lambda n: Mask(readable=padded(n), right=True),
    "causal lengths": lambda n: Mask(readable=padded(n), causal=True, own=True, right=True),
    "a first token alone": lambda n: Mask(
        readable=padded(n, 1), causal=True, own=True, right=True, first_hidden=True
    ),
    "packed": lambda n: Mask(segments=texts(n), causal=True),
    "packed lengths": lambda n: Mask(readable=padded(n), segments=texts(n)),
}


def allows(mask, queries, keys) -> Any:
    """A mask that is none for nobody."""
    return mask.allows(queries, keys)


def seen(mask, length):
    """Rows whose results somebody reads: of tokens that are not hidden, and of a first one."""
    if mask.readable is None:
        return jnp.ones((B, 1, length, 1))
    kept = mask.readable.at[:, 0].set(True)
    return kept[:, None, :, None].astype(jnp.float32)


def both(function, kept, weights, given):
    """A weighted sum of what is read, and its gradients."""

    def total(*given):
        return (function(*given) * kept * weights).sum()

    return function(*given) * kept, jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*given)


def compare(one, other, mask, given, tolerance=1e-5):
    kept = seen(mask, given[0].shape[2])
    weights = jnp.cos(jnp.arange(given[0].size, dtype=jnp.float32)).reshape(given[0].shape)
    found, wanted = (both(f, kept, weights, given) for f in (one, other))
    chex.assert_trees_all_close(found, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("shared", [4, 2])
def test_the_plain_form_equals_its_twin(name, shared):
    mask, given = MASKS[name](L), arrays(shared=shared)
    compare(
        lambda q, k, v: attend(q, [k], [v], mask), lambda q, k, v: dense(q, k, v, mask), mask, given
    )


@pytest.mark.parametrize("name", [name for name in MASKS if "packed" not in name])
def test_lengths_alone_say_what_a_gpu_needs(name):
    mask, given = MASKS[name](L), arrays()
    assert mask.lengths_say_all
    compare(
        lambda q, k, v: attention.by_lengths(q * C**-0.5, k, v, mask, "xla"),
        lambda q, k, v: dense(q, k, v, mask),
        mask,
        given,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a first token alone", "packed lengths"])
def test_a_tpus_kernel_equals_the_twin(name, mesh):
    length = 200  # no multiple of a tile
    mask, given = MASKS[name](length), arrays(length=length)
    kernel = Kernel("splash", mesh(2, 2), least=1, interpret=True)
    compare(
        lambda q, k, v: attend(q, [k], [v], mask, kernel),
        lambda q, k, v: dense(q, k, v, mask),
        mask,
        given,
        2e-5,
    )


def test_masks_say_who_reads_whom():
    """Written out by hand: a mask that twin and function read alike would hide its faults."""
    allowed = allows(MASKS["a first token alone"](L), L, L)[1].astype(int)
    wanted = np.tril(np.ones((L, L), int))
    wanted[:, 0] = 0
    wanted[:, 6:] = 0
    np.fill_diagonal(wanted, 1)
    np.testing.assert_array_equal(allowed, wanted)
    text = np.asarray(texts()[0])
    wanted = (text[:, None] == text) & np.tri(L, dtype=bool)
    np.testing.assert_array_equal(allows(MASKS["packed"](L), L, L)[0], wanted)
    assert Mask().allows(3, 3) is None


def test_windows_count_tokens_and_not_slots():
    """A prompt of two tokens, padded on the left, three empty slots, and the token that asks."""
    readable = jnp.asarray([[0, 1, 1, 0, 0, 0, 1]], bool)
    mask = Mask(readable=readable, causal=True, own=True, window=2)
    np.testing.assert_array_equal(allows(mask, 1, 7)[0, 0], [0, 0, 1, 0, 0, 0, 1])
    wide = mask.replace(local=jnp.array(False))
    np.testing.assert_array_equal(allows(wide, 1, 7)[0, 0], [0, 1, 1, 0, 0, 0, 1])
    front = allows(mask.behind(2), 1, 9)[0, 0]
    np.testing.assert_array_equal(front, [1, 1, 0, 0, 1, 0, 0, 0, 1])


def test_a_cache_is_read_where_it_lies():
    query, key, value = arrays()
    mask = Mask(readable=padded(), causal=True, own=True)
    whole = attend(query, [key], [value], mask)
    keys, values = ([x[:, :, :7], x[:, :, 7:]] for x in (key, value))
    np.testing.assert_allclose(
        attend(query[:, :, 7:], keys, values, mask), whole[:, :, 7:], atol=1e-6
    )


def test_a_row_without_a_token_is_finite():
    given = arrays()
    mask = Mask(readable=jnp.zeros((B, L), bool), right=True)
    for found in (
        attend(given[0], [given[1]], [given[2]], mask),
        attention.by_lengths(given[0], given[1], given[2], mask, "xla"),
    ):
        assert np.isfinite(found).all()


def test_kernels_are_chosen_by_platform_and_by_hand(mesh, monkeypatch):
    assert attention.choose(None, jnp.float32) == Kernel()
    assert attention.choose(mesh(2, 1), jnp.bfloat16).kind == "xla"
    assert attention.choose(None, jnp.float32, "splash").kind == "splash"
    with pytest.raises(MmjaxError, match="attention is 'flash'; expected one of"):
        attention.choose(None, jnp.float32, "flash")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert attention.choose(None, jnp.bfloat16).kind == "cudnn"
    assert attention.choose(None, jnp.float32).kind == "xla"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert attention.choose(None, jnp.float32).kind == "splash"


def test_short_texts_and_caches_are_computed_in_the_plain_form(monkeypatch):
    def no(*given):
        raise AssertionError("a kernel was taken")

    monkeypatch.setattr(attention, "_splash", no)
    query, key, value = arrays()
    attend(query, [key], [value], Mask(), Kernel("splash"))
    kernel = Kernel("splash", least=1)
    attend(query[:, :, -1:], [key], [value], Mask(), kernel)
    attend(query, [key], [value], Mask(window=3), kernel)
    with pytest.raises(AssertionError):
        attend(query, [key], [value], Mask(), kernel)

"""The accountant against programs whose cost is plain arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.plan.hlo import account
from mmjax.plan.hlo_text import read

L, D, F, B = 5, 64, 128, 32


def compiled(function, *shapes):
    return jax.jit(function).lower(*shapes).compile().as_text() or ""


def f32(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def layers(weights, x):
    def body(x, w):
        return jnp.tanh(x @ w[0]) @ w[1], None

    return jax.lax.scan(body, x, weights)[0]


def test_a_loops_body_counts_as_often_as_it_runs():
    weights = (f32(L, D, F), f32(L, F, D))
    cost = account(compiled(layers, weights, f32(B, D)))
    assert cost.flops == L * 2 * 2 * B * D * F
    assert cost.uncertain == ()
    once = jax.jit(layers).lower(weights, f32(B, D)).compile().cost_analysis() or {}
    assert once["flops"] < cost.flops / 2, "XLA's own figure counts loops now: this is not needed"


def test_a_loop_within_a_loop():
    def function(weights, x):
        return jax.lax.fori_loop(0, 7, lambda _, x: layers(weights, x), x)

    cost = account(compiled(function, (f32(L, D, F), f32(L, F, D)), f32(B, D)))
    assert cost.flops == 7 * L * 2 * 2 * B * D * F


def test_going_back_over_frozen_weights_takes_twice_as_much():
    def loss(x, weights):
        return jnp.sum(layers(weights, x) ** 2)

    cost = account(compiled(jax.grad(loss), f32(B, D), (f32(L, D, F), f32(L, F, D))))
    assert cost.flops == 2 * L * 2 * 2 * B * D * F
    both = account(compiled(jax.grad(loss, (0, 1)), f32(B, D), (f32(L, D, F), f32(L, F, D))))
    assert both.flops == pytest.approx(3 / 2 * cost.flops)


@pytest.mark.parametrize(
    ("begin", "end", "by", "trips"), [(0, 9, 2, 5), (3, 11, 4, 2), (0, 8, 8, 1), (10, 1, -3, 3)]
)
def test_trips_of_any_counter(begin, end, by, trips):
    def function(w, x):
        def ahead(state):
            return state[0] < end if by > 0 else state[0] > end

        return jax.lax.while_loop(ahead, lambda s: (s[0] + by, s[1] @ w), (begin, x))[1]

    cost = account(compiled(function, f32(D, D), f32(B, D)))
    assert cost.flops == trips * 2 * B * D * D
    assert cost.uncertain == ()


def test_a_loop_that_may_end_early_counts_to_its_bound_and_says_so():
    def function(w, x):
        def ahead(state):
            return (state[0] < 12) & (jnp.sum(state[1]) > 0)

        return jax.lax.while_loop(ahead, lambda s: (s[0] + 1, s[1] @ w), (0, x))[1]

    cost = account(compiled(function, f32(D, D), f32(B, D)))
    assert cost.flops == pytest.approx(12 * 2 * B * D * D, rel=0.01)


def test_a_loop_of_which_nothing_is_known_counts_once_and_says_so():
    def function(w, x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) > 0, lambda x: x @ w, x)

    cost = account(compiled(function, f32(D, D), f32(B, D)))
    assert cost.flops == pytest.approx(2 * B * D * D, rel=0.01)
    assert len(cost.uncertain) == 1


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_convolution_by_its_taps(padding):
    def function(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), padding)

    cost = account(compiled(function, f32(2, 3, 9, 9), f32(8, 3, 3, 3)))
    out = 9 if padding == "SAME" else 7
    taps = sum(0 <= o + k - (padding == "SAME") < 9 for o in range(out) for k in range(3)) ** 2
    assert cost.flops == 2 * 2 * 8 * 3 * taps


def test_a_matrix_product_that_a_tpu_writes_as_a_convolution():
    # 16 heads of [128, 64] x [64, 32]: the heads are a dimension of which each place meets one.
    text = """HloModule m, is_scheduled=true, num_partitions=8

ENTRY %main (a: bf16[16,128,64], b: bf16[16,64,32]) -> bf16[16,128,32] {
  %a = bf16[16,128,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[16,64,32]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[16,128,32]{2,1,0:T(8,128)(2,1)S(1)} convolution(%a, %b), \
window={size=16 stride=15 lhs_dilate=16}, dim_labels=0bf_0io->0bf
}
"""
    cost = account(text)
    assert cost.flops == 2 * 16 * 128 * 64 * 32
    assert cost.hbm_bytes == 2 * 16 * (128 * 64 + 64 * 32), "what lies in VMEM costs nothing"


def test_a_slice_costs_what_is_sliced():
    # A turn of the loop reads its layer's weights alone.
    cost = account(compiled(layers, (f32(L, D, F), f32(L, F, D)), f32(B, D)))
    weights = 4 * L * 2 * D * F
    activations = 4 * L * B * (2 * D + 4 * F + 2 * D)
    assert weights < cost.hbm_bytes < 2 * weights + 3 * activations


def test_collectives_by_bytes_group_and_times(mesh):
    def function(x, w):
        def body(x, _):
            return jax.lax.with_sharding_constraint(
                (x @ w) @ w.T, NamedSharding(whole, PartitionSpec("data", None))
            ), None

        return jax.lax.scan(body, x, length=3)[0]

    whole = mesh(2, 4)

    def shaped(dims, *spec):
        where = NamedSharding(whole, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(dims, jnp.float32, sharding=where)

    text = compiled(function, shaped((B, D), "data", None), shaped((D, F), None, "model"))
    (found,) = account(text).collectives
    assert (found.kind, found.group, found.times) == ("all-reduce", 4, 3)
    assert found.bytes == 4 * B // 2 * D
    assert found.wire_bytes == 3 * 2 * 3 / 4 * found.bytes
    assert account(text).flops == 3 * 2 * 2 * (B // 2) * D * (F // 4)


ASYNC = """HloModule m, is_scheduled=true, num_partitions=8

ENTRY %main (a: f32[64,64], b: f32[64,64]) -> f32[64,64] {{
  %a = f32[64,64]{{1,0}} parameter(0)
  %b = f32[64,64]{{1,0}} parameter(1)
  %s = (f32[64,64]{{1,0}}, f32[64,64]{{1,0}}, u32[], u32[]) collective-permute-start(%a), \
source_target_pairs={{{{0,1}},{{1,0}}}}
{0}  %d = f32[64,64]{{1,0}} collective-permute-done(%s)
{1}  ROOT %c = f32[64,64]{{1,0}} add(%d, %p)
}}
"""
PRODUCT = "  %p = f32[64,64]{1,0} dot(%b, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}\n"


@pytest.mark.parametrize("hidden", [True, False])
def test_a_collective_is_hidden_where_something_is_computed_before_it_ends(hidden):
    cost = account(ASYNC.format(*((PRODUCT, "") if hidden else ("", PRODUCT))))
    (found,) = cost.collectives
    assert found.overlaps == hidden
    assert found.bytes == found.wire_bytes == 4 * 64 * 64
    assert cost.exposed_wire_bytes == (0 if hidden else found.bytes)


def test_a_copy_that_only_lays_out_anew_is_told():
    text = """HloModule m, is_scheduled=true

%lay (p: bf16[32,64]) -> bf16[64,32] {
  %p = bf16[32,64]{1,0} parameter(0)
  ROOT %t = bf16[64,32]{1,0} transpose(%p), dimensions={1,0}
}

ENTRY %main (a: bf16[32,64], b: bf16[32,64]) -> (bf16[64,32], bf16[32,64]) {
  %a = bf16[32,64]{1,0} parameter(0)
  %b = bf16[32,64]{1,0} parameter(1)
  %f = bf16[64,32]{1,0} fusion(%a), kind=kLoop, calls=%lay, metadata={op_name="wanted"}
  %c = bf16[32,64]{1,0} copy(%b)
  %v = bf16[32,64]{1,0:S(1)} copy(%b)
  ROOT %r = (bf16[64,32]{1,0}, bf16[32,64]{1,0}) tuple(%f, %c)
}
"""
    cost = account(text)
    assert [(x.kind, x.bytes, x.op_name) for x in cost.copies] == [
        ("transpose", 4096, "wanted"),
        ("copy", 4096, ""),
    ], "into VMEM is no copy"
    assert cost.hbm_bytes == 5 * 4096


def test_sizes_of_dtypes():
    module = read(
        "ENTRY %m (a: s4[3]) -> s4[3] {\n  %a = (s4[3]{0}, pred[5], bf16[2,2]{1,0:T(2,128)S(5)}, "
        "f8e4m3fn[7], token[]) parameter(0)\n}\n"
    )
    assert [x.bytes for x in module.entry.instructions["a"].shapes] == [2, 5, 8, 7, 0]
    assert [x.space for x in module.entry.instructions["a"].shapes] == [0, 0, 5, 0, 0]


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        account("module @jit_f {}")


def test_sums_and_repetitions():
    cost = account(ASYNC.format(PRODUCT, ""))
    twice = cost + cost
    assert (twice.flops, twice.hbm_bytes) == (2 * cost.flops, 2 * cost.hbm_bytes)
    assert np.isclose(cost.repeated(3).wire_bytes, 3 * cost.wire_bytes)

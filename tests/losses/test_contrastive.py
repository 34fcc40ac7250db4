"""Every loss against its definition in float64, whatever the mesh, weights and precision."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from mmjax.errors import MmjaxError
from mmjax.losses import contrastive, dense
from mmjax.losses.pairs import MAX_LOGIT_SCALE
from mmjax.losses.weighting import Focal, HardNegatives, LossSoftmax

COOL, HOT = np.log(14.3), np.log(100.0)
N, PADDED = 37, 40  # an odd number of pairs, and padding that 8 devices can share out
LABELS = np.arange(N) % 14
WEIGHTS = np.random.default_rng(1).uniform(0.1, 2.0, N)
OPTIONS = {
    "plain": {},
    "weights": {"weights": WEIGHTS},
    "focal": {"hard": Focal(0.5)},
    "focal2-weights": {"hard": Focal(2.0), "weights": WEIGHTS},
    "loss-softmax": {"hard": LossSoftmax(2.0)},
    "labels": {"positives": LABELS},
    "labels-smoothing-focal": {"positives": LABELS, "label_smoothing": 0.1, "hard": Focal(1.0)},
    "hcl": {"negatives": HardNegatives(0.5)},
    "hcl-debiased": {"negatives": HardNegatives(1.0, 0.05)},
    "hcl-labels": {"negatives": HardNegatives(0.5, 0.01), "positives": LABELS, "weights": WEIGHTS},
    "debiased": {"negatives": HardNegatives(0.0, 0.05), "label_smoothing": 0.1},
}
ALL_LOSSES = ("info_nce", "supervised", "sigmoid", "pairwise_bce")


SOME = ("focal2-weights", "labels-smoothing-focal", "hcl-labels")


def cases():
    """InfoNCE with every option; the others with some, since all options are one code."""
    for loss in ALL_LOSSES:
        for name in OPTIONS if loss == "info_nce" else SOME:
            if "negatives" not in OPTIONS[name] or loss in ("info_nce", "supervised"):
                yield pytest.param(loss, OPTIONS[name], id=f"{loss}-{name}")


def arrays(options, dtype):
    """Options with their arrays in one precision, positives as integers."""
    return {
        k: jnp.asarray(v, jnp.int32 if k == "positives" else dtype)
        if isinstance(v, np.ndarray)
        else v
        for k, v in options.items()
    }


def padded(options, size):
    """Options for a batch that padding brings to `size`."""
    mask = np.arange(size) < N
    longer = {
        k: np.pad(v, (0, size - N), constant_values=1) if isinstance(v, np.ndarray) else v
        for k, v in options.items()
    }
    return longer | {"mask": mask}


def scalars(loss, logit_scale):
    return (logit_scale, -3.0) if loss == "sigmoid" else (logit_scale,)


def value_and_gradients(function, pairs, numbers, options):
    """The loss, and its gradients by towers, scale, bias and weights."""
    weights = options.pop("weights", None)
    wanted = {"pairs": pairs, "numbers": numbers} | ({} if weights is None else {"w": weights})

    def loss(x):
        more = {"weights": x["w"]} if "w" in x else {}
        return function(*x["pairs"], *x["numbers"], **more, **options)[0]

    return jax.value_and_grad(loss)(wanted)


def in_float64(loss, pairs, logit_scale, options):
    with jax.enable_x64(True):
        pairs = tuple(jnp.asarray(np.asarray(x), jnp.float64) for x in pairs)
        numbers = tuple(jnp.float64(x) for x in scalars(loss, logit_scale))
        given = arrays(options, jnp.float64)
        run = jax.jit(lambda x, y: value_and_gradients(getattr(dense, loss), x, y, dict(given)))
        return jax.tree.map(np.asarray, run(pairs, numbers))


def relative(found, wanted):
    """|found - wanted| / |wanted|, of whole arrays."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted)
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def errors(found, wanted):
    """The relative error of the loss and of every gradient; padded rows must have gradient 0."""
    worst = []

    def compare(a, b):
        a = np.asarray(a, np.float64)
        if a.ndim:
            assert not a[len(b) :].any()
            a = a[: len(b)]
        worst.append(relative(a, b))

    jax.tree.map(compare, found, wanted)
    return worst


def assert_equals_the_definition(loss, options, mesh, make_pairs, bound=1e-5, dtype=jnp.float32):
    size = N if mesh is None or mesh.shape["data"] == 1 else PADDED
    image, text = make_pairs(N)
    pairs = tuple(
        jnp.pad(x, ((0, size - N), (0, 0)), constant_values=0.5).astype(dtype)
        for x in (image, text)
    )
    given = arrays(padded(options, size) if size > N else dict(options), jnp.float32)
    if mesh is not None:
        split = NamedSharding(mesh, PartitionSpec("data"))
        pairs = jax.device_put(pairs, split)

    @jax.jit
    def run(pairs, numbers):
        function = getattr(contrastive, loss)
        return value_and_gradients(
            lambda *x, **k: function(*x, block=4, mesh=mesh, **k), pairs, numbers, dict(given)
        )

    exact = [x[:N].astype(jnp.float32) for x in pairs]
    for logit_scale in (COOL, HOT):
        found = run(pairs, scalars(loss, jnp.float32(logit_scale)))
        wanted = in_float64(loss, exact, logit_scale, options)
        assert max(errors(found, wanted)) <= bound, errors(found, wanted)


@pytest.mark.parametrize(("loss", "options"), list(cases()))
def test_loss_and_gradients_equal_the_definition(loss, options, mesh, make_pairs):
    assert_equals_the_definition(loss, options, mesh(8), make_pairs)


EVERYTHING = {"positives": LABELS, "weights": WEIGHTS, "hard": Focal(1.0), "label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("loss", "devices"),
    [*((loss, 2) for loss in ALL_LOSSES), *(("info_nce", n) for n in (None, 1, 4))],
)
def test_the_mesh_does_not_matter(loss, devices, mesh, make_pairs):
    assert_equals_the_definition(
        loss, EVERYTHING, None if devices is None else mesh(devices), make_pairs
    )


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_bfloat16_inputs_are_summed_in_float32(loss, mesh, make_pairs):
    # Factors of a matrix product are rounded to 8 bits, sums are not: 2^-8 on gradients.
    assert_equals_the_definition(loss, {}, mesh(2), make_pairs, 2**-8, jnp.bfloat16)


def test_a_model_axis_only_repeats_the_work(mesh, make_pairs):
    assert_equals_the_definition("info_nce", EVERYTHING, mesh(2, 4), make_pairs)


def test_one_modality(make_pairs):
    vectors, _ = make_pairs(N)
    labels = jnp.asarray(LABELS)
    for name in ("supervised", "pairwise_bce"):
        clever, slow = getattr(contrastive, name), getattr(dense, name)
        wanted = jax.jit(lambda x, f=slow: f(x, None, COOL, positives=labels))(vectors)
        found = jax.jit(lambda x, f=clever: f(x, None, COOL, positives=labels, block=8))(vectors)
        chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"hard": Focal(0.0)}, {"negatives": HardNegatives(0.0, 0.0)}], ids=["gamma", "beta"]
)
def test_zero_strength_is_exactly_plain(options, make_pairs):
    def run(options):
        step = jax.jit(lambda x, y: value_and_gradients(contrastive.info_nce, x, y, dict(options)))
        return step(make_pairs(N), (jnp.float32(2.0),))

    chex.assert_trees_all_equal(run(options), run({}))


def test_nearly_solved_pairs_keep_their_digits(make_pairs):
    # log sum exp - own logit would lose them all in f32: logits are 25, the loss is below 1e-6.
    warm = np.log(25.0)
    image, _ = make_pairs(8, 64)
    found = jax.jit(lambda x: contrastive.info_nce(x, x, warm, hard=Focal(0.5)))(image)
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(image), jnp.float64)
        wanted = jax.tree.map(np.asarray, dense.info_nce(wide, wide, warm, hard=Focal(0.5)))
    assert wanted[0] < 1e-6
    assert_allclose(found[0], wanted[0], rtol=1e-4)
    assert_allclose(found[1].weight, wanted[1].weight, rtol=1e-4)


@pytest.mark.parametrize("module", [contrastive, dense], ids=["clever", "slow"])
@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_a_temperature_at_the_clamp_finds_its_way_back(module, loss, make_pairs):
    # A minimum inside the loss has half a gradient at the limit and none above: a trap.
    image, text = make_pairs(N)
    function = getattr(module, loss)
    step: Any = jax.jit(
        jax.value_and_grad(lambda s, text: function(image, text, *scalars(loss, s))[0])
    )
    below, limit = jnp.float32(MAX_LOGIT_SCALE - 1e-3), jnp.float32(MAX_LOGIT_SCALE)
    _, falling = step(below, text)
    value, at_limit = step(limit, text)
    assert falling > 1  # these pairs want a far higher temperature
    assert_allclose(at_limit, falling, rtol=0.01)
    for above in (limit + 1e-4, jnp.float32(9.0)):
        assert step(above, text) == (value, at_limit)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_no_number_is_refused(bad, make_pairs):
    image, text = make_pairs(N)
    with pytest.raises(MmjaxError, match=r"logit_scale is .*; expected a finite number"):
        contrastive.info_nce(image, text, bad)


def test_equal_captions_are_no_false_negatives(make_pairs):
    image, text = make_pairs(6)
    text = text.at[3].set(text[0])  # the same caption under two pictures
    ids = jnp.array([0, 1, 2, 0, 4, 5])
    _, ignorant = contrastive.info_nce(image, text, HOT)
    _, told = contrastive.info_nce(image, text, HOT, positives=ids)
    assert told.probability[0] > 1.2 * ignorant.probability[0]


def test_hard_pairs_weigh_more_and_one_on_average(make_pairs):
    image, text = make_pairs(N)
    weights = jnp.asarray(WEIGHTS, jnp.float32)
    for hard in (Focal(2.0), LossSoftmax(0.5)):
        _, pairs = contrastive.info_nce(image, text, COOL, hard=hard)
        assert_allclose(pairs.weight.mean(), 1, rtol=1e-6)
        order = jnp.argsort(pairs.probability if isinstance(hard, Focal) else -pairs.loss)
        assert (jnp.diff(pairs.weight[order]) <= 0).all()
        _, pairs = contrastive.info_nce(image, text, COOL, hard=hard, weights=weights)
        assert_allclose(pairs.weight.mean(), 1, rtol=1e-6)

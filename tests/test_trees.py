import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import trees
from mmjax.errors import MmjaxError

TREE = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "step_scale": jnp.ones(())}


def test_the_first_rule_that_matches_the_whole_path_wins():
    found = trees.match_rules(TREE, [(r"a/kernel", 1), (r"a/.*", 2), (r".*", 3)])
    assert found == {"a": {"kernel": 1, "bias": 2}, "step_scale": 3}


def test_a_part_of_a_path_selects_nothing():
    with pytest.raises(MmjaxError, match="no rule covers the parameter 'a/bias'"):
        trees.match_rules(TREE, [(r"kernel", 1)])


def test_a_rule_without_a_parameter_is_an_error():
    with pytest.raises(MmjaxError, match=r"select no parameter: \['a/kernle'\]"):
        trees.match_rules(TREE, [(r"a/kernle", 1), (r".*", 2)])


def test_sizes_and_overview():
    assert trees.count(TREE) == 10
    assert trees.nbytes(TREE) == 40
    assert trees.overview(TREE).splitlines()[-1].split() == ["total", "10"]


def test_the_fingerprint_follows_values_shapes_and_names():
    base = trees.fingerprint(TREE)
    assert base == trees.fingerprint({"step_scale": jnp.ones(()), "a": dict(TREE["a"])})
    others = [
        TREE | {"step_scale": jnp.full((), 2.0)},
        TREE | {"step_scale": np.ones(1, np.float32)},
        {"a": TREE["a"], "renamed": jnp.ones(())},
    ]
    assert len({base, *map(trees.fingerprint, others)}) == 4

"""Both sides of the benchmark of all families say the same, on one of each kind."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import families, side
from benchmarks.families import TOLERANCE, WORKS
from benchmarks.harness import Options, check_equal
from mmjax.errors import MmjaxError


def test_without_a_peer_nothing_is_compared():
    (grid,) = families.run(Options()).grids
    assert "skipped" in grid.title


def test_what_is_told_of_an_array_is_spread_over_it():
    told = side.thinned(np.arange(50_000).reshape(10, 100, 50))
    assert 3000 < len(told) < 6000
    assert np.unique(told % 50).size > 20  # channels, not one of them
    assert side.thinned(np.arange(6).reshape(2, 3)).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B/16", "Qwen2-VL, image tower"])
def test_both_sides_agree(name, tmp_path: Path):
    work = WORKS[name]
    families.write(tmp_path, work, 2)
    arguments = {"folder": str(tmp_path), "part": work.theirs, "said": work.said}
    theirs, facts = side.make("benchmarks.peers.torch_families:side", arguments)
    ours, own = families.ours(str(tmp_path), name)
    assert own["loading"] > 0
    assert facts["loading"] > 0
    values = {"mmjax": ours(), "torch": theirs()}
    check_equal(values, TOLERANCE)
    with pytest.raises(MmjaxError, match="do not agree"):
        check_equal({**values, "torch": values["torch"] + 1}, TOLERANCE)

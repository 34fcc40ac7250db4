"""Published models by shapes alone: what they count, and what every one of eight devices holds."""

import re

import pytest

from benchmarks import real_sizes
from benchmarks.real_sizes import DEVICES, SIZES
from mmjax import sharding
from mmjax.plan.programs import share_of


@pytest.fixture(scope="module")
def chips():
    return sharding.make_mesh(1, DEVICES)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_those_published_and_lie_as_said(name, chips):
    size, encoders = SIZES[name], real_sizes.models(name, chips)
    assert real_sizes.count(encoders) == size.published - size.unread
    whole = [path for encoder in encoders.values() for path in real_sizes.held_whole(encoder)]
    said = list(size.whole or {})
    assert [path for path in whole if not any(re.fullmatch(p, path) for p in said)] == []
    assert [p for p in said if not any(re.fullmatch(p, path) for path in whole)] == []
    # All else is divided, so that a device holds little more than its eighth of bfloat16's bytes.
    held = sum(share_of(encoder.params) for encoder in encoders.values())
    assert 1 <= held / (2 * real_sizes.count(encoders) / DEVICES) < 1.1


def test_programs_are_those_of_the_models_kind(chips):
    """Traced for the shapes of a batch; a compiler is not asked."""
    name = "siglip2-so400m-patch14-384"
    step, embed = real_sizes.programs(name, real_sizes.models(name, chips), chips)
    assert (step.name, embed.name) == ("step", "embed")
    assert set(step.held()) == {"trained", "frozen", "batch"}
    vectors = embed.trace().out_info
    assert {role: x.shape for role, x in vectors.items()} == {
        role: (real_sizes.EMBEDDED, 1152) for role in ("image", "text")
    }

"""Whoever brings another kind of model is told what it is nearest to, and what is lacking."""

import json

import pytest

from mmjax import MmjaxError
from mmjax.encoders import catalog, load_encoder, nearest


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"model_type": "gemma"},
            "nearest is 'llama', which lacks norms that scale by 1 + weight",
        ),
        ({"model_type": "gemma2"}, "nearest is 'gemma3_text', which lacks soft caps of scores"),
        ({"model_type": "qwen25"}, "nearest is 'qwen2'; write a Family"),
        ({"model_type": "x", "rope_theta": 1e4}, "nearest is 'llama'; write a Family"),
        ({"model_type": "x", "patch_size": 16}, "nearest is 'vit'"),
        ({"model_type": "x", "vision_config": {}, "text_config": {}}, "nearest is 'clip'"),
        ({"model_type": "x"}, "none is near; write a Family"),
        ({}, "none is near"),
    ],
)
def test_the_nearest_family_is_named(config, said, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MmjaxError) as caught:
        load_encoder(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'config.json'}: model_type ")
    assert said in message
    assert "give it as family='package.module:Name'" in message


def test_what_is_named_is_there_and_what_lacks_is_not():
    known = set(catalog.FAMILIES.names())
    assert {name for name, _ in nearest._LACKING.values()} <= known
    assert {name for _, name in nearest._MARKS} <= known
    assert not set(nearest._LACKING) & known

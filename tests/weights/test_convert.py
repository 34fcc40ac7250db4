"""Reading checkpoints: names, shapes, shards, damage, fingerprints."""

import json

import chex
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

from mmjax.encoders import load_encoder
from mmjax.errors import MmjaxError


def test_layers_are_stacked_transposed_and_cast(folder):
    path = folder("bert_tiny")
    source = load_file(path / "model.safetensors")
    kernel = load_encoder(path).params["layers"]["intermediate"]["kernel"]
    assert kernel.shape == (2, 32, 64)
    for layer in range(2):
        key = f"encoder.layer.{layer}.intermediate.dense.weight"
        assert_array_equal(kernel[layer], source[key].T)


@pytest.mark.parametrize(
    "rename",
    [
        lambda k: "bert." + k,
        lambda k: "roberta." + k,
        lambda k: k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ),
    ],
)
def test_prefixes_and_old_names_give_the_same_weights(rename, folder):
    plain = load_encoder(folder("bert_tiny"))
    other = load_encoder(folder("bert_tiny", rename=rename))
    assert plain.fingerprint == other.fingerprint
    chex.assert_trees_all_equal(plain.params, other.params)


def test_buffers_and_heads_are_passed_over(folder):
    extra = {
        "embeddings.position_ids": np.arange(16)[None],
        "cls.predictions.bias": np.zeros(50, np.float32),
        "classifier.weight": np.zeros((2, 32), np.float32),
    }
    encoder = load_encoder(folder("bert_tiny", tensors=extra))
    assert encoder.fingerprint == load_encoder(folder("bert_tiny")).fingerprint


def test_all_misfits_are_listed_at_once(folder):
    path = folder(
        "bert_tiny",
        tensors={
            "encoder.layer.0.output.dense.bias": np.zeros(7, np.float32),
            "encoder.layer.5.output.dense.bias": np.zeros(32, np.float32),
            "mystery.weight": np.zeros(3, np.float32),
            "embeddings.LayerNorm.bias": np.zeros(32, np.int64),
        },
        drop=("encoder.layer.1.attention.self.query.weight", "embeddings.LayerNorm.weight"),
    )
    with pytest.raises(MmjaxError) as raised:
        load_encoder(path)
    for part in (
        "(6 problems)",
        "misshapen encoder.layer.0.output.dense.bias: [7], expected [32]",
        "unexpected encoder.layer.5.output.dense.bias: the config has 2 layers",
        "unexpected mystery.weight",
        "embeddings.LayerNorm.bias has dtype I64",
        "nothing feeds layers/attention/query/kernel for layers [1]",
        "nothing feeds embeddings_norm/scale",
        str(path),
    ):
        assert part in str(raised.value)


def test_two_tensors_for_one_parameter_are_refused(folder):
    twin = {"bert.embeddings.LayerNorm.weight": np.ones(32, np.float32)}
    with pytest.raises(MmjaxError, match="both feed embeddings_norm/scale"):
        load_encoder(folder("bert_tiny", tensors=twin))


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_file_cut_short_is_named(keep, folder):
    path = folder("bert_tiny") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MmjaxError, match=r"model\.safetensors is damaged or cut short"):
        load_encoder(path.parent)


def test_no_weights_at_all(folder):
    path = folder("bert_tiny")
    (path / "model.safetensors").unlink()
    with pytest.raises(MmjaxError, match=r"neither model\.safetensors nor"):
        load_encoder(path)


def shard(path) -> None:
    """Splits a folder's file in two behind an index."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    weight_map = {}
    for i, keys in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        name = f"model-0000{i}-of-00002.safetensors"
        save_file({key: tensors[key] for key in keys}, path / name)
        weight_map |= dict.fromkeys(keys, name)
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_sharded_files_load_to_the_same_encoder(folder):
    path = folder("bert_tiny")
    whole = load_encoder(path)
    shard(path)
    sharded = load_encoder(path)
    assert whole.fingerprint == sharded.fingerprint
    chex.assert_trees_all_equal(whole.params, sharded.params)


def test_a_lacking_shard_and_an_index_that_leads_outside(folder):
    path = folder("bert_tiny")
    shard(path)
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MmjaxError, match="not in the folder: model-00002-of-00002"):
        load_encoder(path)
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../bert_tiny/config.json"}}))
    with pytest.raises(MmjaxError, match=r"not in the folder: \.\./bert_tiny"):
        load_encoder(path)
    index.write_text("[]")
    with pytest.raises(MmjaxError, match="is not an index"):
        load_encoder(path)


def test_fingerprint_follows_the_weights_and_nothing_else(folder):
    first = load_encoder(folder("bert_tiny"))
    assert first.fingerprint == load_encoder(folder("bert_tiny"), dtype="bfloat16").fingerprint
    path = folder("bert_tiny")
    tensors = load_file(path / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][3] += 1e-6
    save_file(tensors, path / "model.safetensors")
    assert load_encoder(path).fingerprint != first.fingerprint
    # Two layers that changed places are other weights too.
    swap = {"0": "1", "1": "0"}
    swapped = load_encoder(
        folder(
            "bert_tiny",
            rename=lambda k: (
                f"encoder.layer.{swap[k.split('.')[2]]}.{k.split('.', 3)[3]}"
                if k.startswith("encoder")
                else k
            ),
        )
    )
    assert swapped.fingerprint != first.fingerprint


RULES = (
    (r"layers/(intermediate|attention/(query|key|value))/kernel", P(None, None, "model")),
    (r"layers/(output|attention/out)/kernel", P(None, "model", None)),
    (r"word_embeddings/embedding", P(None, "model")),
    (r".*", P()),
)


@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 2)])
def test_a_mesh_gives_the_outputs_of_one_device(shape, folder, mesh):
    path = folder("bert_tiny")
    one, many = load_encoder(path), load_encoder(path, mesh=mesh(*shape), rules=RULES)
    kernel = many.params["layers"]["intermediate"]["kernel"]
    assert kernel.sharding.spec == P(None, None, "model")
    assert kernel.addressable_shards[0].data.shape == (2, 32, 64 // shape[1])
    assert many.fingerprint == one.fingerprint
    texts = [" ".join(f"w{4 + (i + j) % 40}" for j in range(1 + i % 9)) for i in range(21)]
    np.testing.assert_allclose(many.embed_texts(texts), one.embed_texts(texts), atol=1e-5)
    chex.assert_trees_all_equal(many.params, one.params)


def test_pictures_on_a_mesh(folder, mesh):
    path = folder("dinov2_tiny")
    images = list(np.random.default_rng(0).integers(0, 255, (11, 24, 30, 3), np.uint8))
    many = load_encoder(path, mesh=mesh(8)).embed_images(images)
    np.testing.assert_allclose(many, load_encoder(path).embed_images(images), atol=1e-5)


def test_rules_that_select_nothing_or_lack_a_mesh(folder, mesh):
    with pytest.raises(MmjaxError, match="no mesh"):
        load_encoder(folder("bert_tiny"), rules=RULES)
    with pytest.raises(MmjaxError, match=r"select no parameter.*laers"):
        load_encoder(folder("bert_tiny"), mesh=mesh(8), rules=(("laers/.*", P()), (".*", P())))

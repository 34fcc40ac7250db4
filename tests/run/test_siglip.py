"""SigLIP 2 under every task for two towers: no class token, and texts read with their padding."""

import json
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import mmjax
from configs import prompts_coop
from mmjax import predict, study
from mmjax.data.library import Library
from mmjax.encoders import load_encoder
from mmjax.report.results import Results
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.sharding import make_mesh
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import resolve_recipe
from tests.run.fewshot import measured_again

LENGTH, WIDTH = 64, 16
# Of the order of published SigLIPs': e^4.7 is above CLIP's 100.
LOGITS = {"logit_scale": 4.7187, "logit_bias": -16.77}
TRAIN = {"steps": 4, "batch_size": 8, "eval_every": 2, "save_every": 2, "log_every": 1}


def write_tokenizer(folder):
    """Words w4 .. w47 with an end and no beginning, as Gemma's that SigLIP 2 reads."""
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 3} | {f"w{i}": i for i in range(4, 48)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')


@pytest.fixture(scope="module")
def checkpoints(toy, write_folder, golden):
    """Kind -> folder, with positions for 64 tokens."""
    random, folders = np.random.default_rng(0), {}
    square = {"size": {"height": 20, "width": 20}, "image_processor_type": "SiglipImageProcessor"}
    square |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    for kind, name, pictures in (
        ("fixed", "siglip_tiny", square),
        ("naflex", "siglip2_tiny", {"patch_size": 4, "max_num_patches": 21}),
    ):
        text = json.loads(str(golden(name)["config"]))["text_config"]
        positions = random.normal(0, 0.1, (LENGTH, WIDTH)).astype(np.float32)
        tensors = {"text_model.embeddings.position_embedding.weight": positions}
        tensors |= {n: np.full(1, x, np.float32) for n, x in LOGITS.items()}
        config = {"text_config": text | {"max_position_embeddings": LENGTH}}
        folders[kind] = write_folder(toy.folder / kind, name, config=config, tensors=tensors)
        write_tokenizer(folders[kind])
        (folders[kind] / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folders


def towers(folder):
    return {role: {"source": str(folder), "output": "pooled"} for role in ("image", "text")}


@pytest.fixture(scope="module")
def trained(toy, on_one_device, tmp_path_factory):
    """Returns `trained(config)`: a finished run's folder."""

    def run(config):
        workdir = tmp_path_factory.mktemp("siglip") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MMJAX_CACHE", str(toy.cache))
            on_one_device(patch)
            study.run(resolve_recipe(config), config, workdir, "test")
        return workdir

    return run


@pytest.fixture
def here(cached, on_one_device, monkeypatch):
    """The toy's cache and one device."""
    on_one_device(monkeypatch)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def asked(toy, config, text):
    """(pictures, texts) of the test side, one of each an item."""
    library = Library(make_mesh(), ("zh", "en"))
    recipe = resolve_recipe(config)
    pairs = recipe.main.pairs
    domain = recipe.main.task == "domain"
    split = library.split(pairs, 0, domain=domain)["test"]
    rows = {row["id"]: row for row in toy.rows()}
    chosen = [rows[library.corpus(pairs).items[i].id] for i in split]
    return [toy.folder / row["image"] for row in chosen], [row[text] for row in chosen]


def recall(queries, gallery, k):
    """The share of queries whose own picture, at the same place, is among the first k."""
    scores = queries @ gallery.T
    return np.mean((scores > np.diag(scores)[:, None]).sum(1) < k)


def config_of(toy, folder, task, **changes) -> dict[str, Any]:
    """A recipe of the toy on one checkpoint, whose two towers are the base."""
    config = dict(toy.config)
    for name in ("parallel", "adapter", "variants", "base"):
        del config[name]
    base = {"task": "pretrained", "encoders": towers(folder), "pairs": config["pairs"]}
    return config | {
        "task": task,
        "name": f"siglip_{task}",
        "encoders": towers(folder),
        "base": base,
        "evals": ("retrieval",),
        "train": config["train"] | TRAIN,
        "variants": {},
        **changes,
    }


def compare(toy, config, workdir, text, tmp_path):
    """What was measured is what the loaded adapter gives, exported or not; returns it."""
    adapted = mmjax.load_adapter(workdir, kind=mmjax.Adapted)
    pictures, texts = asked(toy, config, text)
    images, queries = adapted.embed_images(pictures), adapted.embed_texts(texts)
    found = Results.load(workdir / "results.json").systems["adapted"]
    for name, one, other in (("t2i", queries, images), ("i2t", images, queries)):
        for k in (1, 5):
            assert found[f"{name}_R@{k}"][0] == pytest.approx(recall(one, other, k)), name
    predict.export(study.plan(resolve_recipe(config), workdir), tmp_path / "export")
    folder = tmp_path / "export" / "seed_0" / config["task"]
    again = mmjax.load_adapter(folder, kind=mmjax.Adapted)
    np.testing.assert_array_equal(again.embed_texts(texts), queries)
    np.testing.assert_array_equal(again.embed_images(pictures), images)
    return adapted


def test_another_language_is_taught(toy, checkpoints, trained, tmp_path, here):
    folder = checkpoints["naflex"]
    config = config_of(toy, folder, "language", parallel=toy.config["parallel"])
    foreign = toy.config["encoders"]["foreign"]
    config |= {"encoders": towers(folder) | {"foreign": foreign}, "loss": {"kind": "distill_mse"}}
    config["adapter"] = toy.config["adapter"]
    workdir = trained(config)
    losses = [loss for _, loss in toy.losses(workdir, "language")]
    assert losses[-1] < losses[0]
    adapted = compare(toy, config, workdir, "zh", tmp_path)
    # The space is the checkpoint's own; its texts are read with their padding, up to 64 tokens.
    alone = load_encoder(folder, tower="text")
    ids = np.zeros((1, LENGTH), np.int32)
    ids[0, :3] = 4, 14, 1
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    said = alone.apply(alone.params, inputs).pooled
    np.testing.assert_allclose(adapted.embed_base_texts(["w4 w14"]), unit(said), atol=1e-6)


@pytest.mark.parametrize("kind", ["fixed", pytest.param("naflex", marks=pytest.mark.slow)])
def test_a_domain_is_learned(kind, toy, checkpoints, trained, tmp_path, here):
    """By residual adapters behind the towers, and a LoRA in both."""
    config = config_of(toy, checkpoints[kind], "domain", residual={"bottleneck": 4})
    pairs = {**config["pairs"], "domain": {"labels": ("w18",)}}
    lora = {role: {"kind": "lora", "rank": 2, "alpha": 4.0} for role in ("image", "text")}
    config |= {"pairs": pairs, "base": config["base"] | {"pairs": pairs}, "adapters": lora}
    config["loss"] = {"kind": "contrastive"}
    workdir = trained(config)
    params, _ = load_adapter_params(workdir / "seed_0" / "domain" / "adapter")
    # SigLIP's own temperature is steeper than the range that training keeps.
    assert 4 < params["logit_scale"] <= np.log(100)
    assert all(np.any(params["adapters"][role]) for role in ("image", "text"))
    adapted = compare(toy, config, workdir, "en", tmp_path)
    pictures, _ = asked(toy, config, "en")
    base = load_encoder(checkpoints[kind], tower="image").embed_images(pictures)
    assert np.abs(adapted.embed_images(pictures) - unit(base)).max() > 1e-4


def fewshot(toy, folder, variants):
    rows = [{**row, "label": f"w{14 + i % 4}"} for i, row in enumerate(toy.rows())]
    source = toy.write_jsonl(toy.folder / "siglip_shapes.jsonl", rows)
    config = config_of(toy, folder, "prompts", base=None, languages=("en", "en"))
    coop = as_dict(prompts_coop.get_config())
    own = {"method": "structured", "template": "w9 {}", "templates": ("{}", "w9 {}"), "ending": ""}
    return config | {
        "evals": ("fewshot",),
        "pairs": {**config["pairs"], "source": str(source), "stratify": True},
        "prompts": {**coop["prompts"], **own, "context": "w20 w21 w22 w23", "chunk": 2},
        "fewshot": {"shots": 2},
        "loss": {"kind": "contrastive"},
        "train": config["train"] | {"select": "none"},
        "variants": variants,
    }


METHODS = {
    "maple": {"prompts": {"method": "maple", "general": 2, "depth": 2}},
    "coop": {"prompts": {"method": "coop"}},
    "factorised": {"prompts": {"method": "factorised"}},
    "tip_adapter": {"prompts": {"method": "tip_adapter"}, "train": {"steps": 0}},
}


@pytest.mark.parametrize(
    ("kind", "variants"), [("fixed", {}), pytest.param("naflex", METHODS, marks=pytest.mark.slow)]
)
def test_classes_are_learned_from_few_pictures(kind, variants, toy, checkpoints, trained, here):
    config = fewshot(toy, checkpoints[kind], variants)
    found = {}
    for name, shown, apart in measured_again(config, trained(config)):
        assert apart == pytest.approx(0), name
        found[name] = shown
    assert len(found) == 1 + len(variants)
    # All patches are read, the first one too, and no padding: of 24 x 24 pixels NaFlex makes 16.
    images = found["prompts"].images
    mask = images.table.gather(images.rows[:3])["patch_mask"]
    count = 16 if kind == "naflex" else 25
    assert mask[:, :count].all()
    assert not mask[:, count:].any()

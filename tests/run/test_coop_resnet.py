"""CoOp's own setting: RN50's layout, its lists of pictures, its prompts, from file to figures."""

import json

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from configs import prompts_coop
from mmjax import study
from mmjax.data.library import Library
from mmjax.encoders import load_encoder
from mmjax.report.results import Results
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.sharding import make_mesh
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks.prompts.data import layout_of
from mmjax.weights.torch_file import TorchFile
from tests.run.fewshot import measured_again

VISION = {"image_size": 64, "layers": [2, 1, 2, 1], "width": 4, "patch_size": None}
TEXT = {"context_length": 30, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2}
WORDS = ["a", "photo", "of", ".", "close", "-", "up", "drawing", "red", "blue", "disc", "bar"]
SOT, EOT = 48, 49
NAMES = ["blue bar", "blue disc", "red bar", "red disc"]
CONTEXT = [WORDS.index(w) + 4 for w in ("a", "photo", "of", "a")]
STOP = WORDS.index(".") + 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory, golden):
    """A tiny ModifiedResNet with its text tower, as open_clip keeps them; 30 places for words."""
    folder = tmp_path_factory.mktemp("resnet")
    (folder / "RN.pt").write_bytes(golden("clip_resnet_tiny")["archive"].tobytes())
    file = TorchFile(folder / "RN.pt")
    kept = [k for k in file.keys() if file.header(k)[1] or k == "logit_scale"]  # noqa: SIM118
    tensors = {key: file.read(key) for key in kept}
    places = np.random.default_rng(0).normal(0, 0.1, (TEXT["context_length"], TEXT["width"]))
    tensors["positional_embedding"] = places.astype(np.float32)
    (folder / "RN.pt").unlink()
    save_file(tensors, folder / "open_clip_model.safetensors")
    model = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    words = {"<unk>": 3, "<sot>": SOT, "<eot>": EOT} | {w: i for i, w in enumerate(WORDS, 4)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<sot> $A <eot>", special_tokens=[("<sot>", SOT), ("<eot>", EOT)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A data set in CoOp's layout: eight pictures of each of four classes."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "images").mkdir()
    lists = {"train": [], "val": [], "test": []}
    for label, name in enumerate(NAMES):
        colour, shape = name.split()
        for k in range(8):
            image = Image.new("RGB", (70 + k, 60), "white")
            pen = ImageDraw.Draw(image)
            box = (5 + 3 * k, 8, 35 + 3 * k, 50) if shape == "disc" else (3, 20 + k, 60, 32 + k)
            (pen.ellipse if shape == "disc" else pen.rectangle)(box, fill=colour)
            image.save(folder / "images" / f"{label}_{k}.png")
            side = "train" if k < 5 else "test"
            lists[side].append([f"{label}_{k}.png", label, name.replace(" ", "_")])
    (folder / "split_zhou_Shapes.json").write_text(json.dumps(lists))
    return folder


@pytest.fixture(scope="module")
def config(clip, shapes):
    """The recipe as it stands, but for the checkpoint, the steps, and how many pictures."""
    whole = as_dict(prompts_coop.get_config(str(shapes)))
    few = {"fewshot": {"shots": 2}}
    variants = {
        name: {**whole["variants"][name], **few} for name in ("coop", "tip_adapter", "factorised")
    }
    return whole | {
        "seeds": (0,),
        "encoders": {r: {"source": str(clip), "output": "pooled"} for r in ("image", "text")},
        "fewshot": {**whole["fewshot"], **few["fewshot"]},
        "pairs": {**whole["pairs"], "val_fraction": 0.1},
        "optim": {**whole["optim"], "warmup_steps": 1},
        "train": {**whole["train"], "steps": 3, "batch_size": 8, "log_every": 1},
        "variants": variants,
    }


@pytest.fixture(scope="module")
def finished(config, on_one_device, tmp_path_factory):
    """The finished run, and its process on one device."""
    folder = tmp_path_factory.mktemp("coop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(folder / "cache"))
        on_one_device(patch)
        study.run(resolve_recipe(config), config, folder / "run", "test")
        yield folder / "run"


def test_what_was_measured_is_what_the_loaded_adapters_say(config, finished):
    found = {}
    for name, shown, apart in measured_again(config, finished):
        assert apart == pytest.approx(0), name
        found[name] = shown
    assert sorted(found) == ["coop", "factorised", "prompts", "tip_adapter"]
    images = found["prompts"].images
    mask = images.table.gather(images.rows[:2])["patch_mask"]
    assert mask.shape == (2, 4)  # of its last grid, where no class token is
    assert mask.all()


def test_the_prompt_before_training_is_clips_own(config, clip, shapes, finished):
    """Of the zero-shot classifier, with the recipe's template and the checkpoint's temperature."""
    image, text = (load_encoder(clip, tower=tower) for tower in ("image", "text"))
    names = text.embed_texts([f"a photo of a {name}." for name in NAMES])
    rows = json.loads((shapes / "split_zhou_Shapes.json").read_text())["test"]
    pictures = image.embed_images([shapes / "images" / row[0] for row in rows])
    right = (pictures @ (names / np.linalg.norm(names, axis=1, keepdims=True)).T).argmax(1)
    accuracy = np.mean(right == [row[1] for row in rows])
    systems = Results.load(finished / "results.json").systems
    assert systems["base"]["accuracy"][0] == pytest.approx(accuracy)


def test_prompts_stand_as_coop_puts_them(config, clip, finished):
    """Start, context, class, full stop, end: its CLASS_TOKEN_POSITION "end"."""
    library = Library(make_mesh(), ("en", "en"))
    stages = {stage.name: stage for stage in resolve_recipe(config).stages}
    text = load_encoder(clip, tower="text")
    own = [[WORDS.index(word) + 4 for word in name.split()] for name in NAMES]
    for name, count in (("coop", 16), ("prompts", 4)):
        layout = layout_of(stages[name], library.encoder(stages[name].encoders["text"]), NAMES)
        shared, behind = list(range(count)), [count, count + 1] if name == "prompts" else []
        for ids, slots, words in zip(layout.ids, layout.slots, own, strict=True):
            assert slots.tolist() == [-1, *shared, -1, -1, *behind, -1, -1]
            assert ids[slots < 0].tolist() == [SOT, *words, STOP, EOT]
    for name, count in (("coop", 16), ("prompts", 4)):
        params, _ = load_adapter_params(finished / "seed_0" / name / "adapter")
        assert params["general"].shape == (count, TEXT["width"])
    # What learns begins at the words' own vectors, and has left them.
    table = np.asarray(text.params["token_embeddings"]["embedding"])
    moved = np.abs(params["general"] - table[CONTEXT]).max()
    assert 0 < moved < 0.1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))

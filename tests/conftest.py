"""One strict environment for every test: 8 CPU devices, checked shapes, no silent broadcasting."""

import contextlib
import gc
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import platformdirs
import pytest
from jax.sharding import AxisType, Mesh
from jaxtyping import install_import_hook
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

DEVICES = 8
GOLDENS = Path(__file__).parent / "goldens"
PREPROCESSOR = {
    "size": {"shortest_edge": 20},
    "crop_size": {"height": 20, "width": 20},
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", DEVICES)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Children (launched commands, grain workers) inherit the platform, never the number of devices.
os.environ["JAX_PLATFORMS"] = "cpu"
# One of several workers has about a core, on which OpenMP's threads would spin for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests compile far longer than they compute, and LLVM's optimizations are half of that. What XLA
# itself does to a program stays the same. XLA_FLAGS= compiles as users do.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# What one test has compiled no other compiles again, nor a child, nor the next run of the tests.
COMPILED = Path(platformdirs.user_cache_dir("mmjax-tests")) / "compiled"
MOST_COMPILED = 2 << 30  # bytes; beyond, the older half goes
for _name, _value in {
    "jax_compilation_cache_dir": str(COMPILED),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    os.environ[_name.upper()] = str(_value)
    jax.config.update(_name, _value)

# Every annotation in mmjax is checked at run time from here on, so nothing above imports mmjax. The
# tower lets an int stand for a float, as type checkers do.
install_import_hook("mmjax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

_loader: Any = importlib.import_module("jaxtyping._import_hook")._JaxtypingLoader
_to_code = _loader.source_to_code


def _undisturbed(*args: Any, **kwargs: Any) -> Any:
    """Parses a module without collecting garbage.

    A leak that goes is reported with a traceback, whose carets are parsed, and Python 3.11 fails
    (SystemError) where one parse comes within another.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        return _to_code(*args, **kwargs)
    finally:
        if was_on:
            gc.enable()


_loader.source_to_code = _undisturbed


@pytest.fixture(scope="session", autouse=True)
def _eight_devices() -> None:
    """Fails, rather than skips, when something created a backend before this file ran."""
    if jax.device_count() != DEVICES:
        pytest.exit(f"tests need {DEVICES} CPU devices, jax has {jax.device_count()}", returncode=3)


MOST_MAPPED = 20_000  # of the 65,530 areas of memory that Linux gives a process


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    """Lets go of programs: each maps some areas of memory, and without any left XLA dies."""
    yield
    with contextlib.suppress(OSError):  # no Linux
        if Path("/proc/self/maps").read_bytes().count(b"\n") > MOST_MAPPED:
            jax.clear_caches()
            gc.collect()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Keeps what was compiled within bounds; workers leave that to whoever started them."""
    if hasattr(session.config, "workerinput"):
        return
    with contextlib.suppress(OSError):  # another run of the tests does the same
        kept = [(path.stat().st_mtime, path) for path in COMPILED.glob("*")]
        if sum(path.stat().st_size for _, path in kept) > MOST_COMPILED:
            for _, path in sorted(kept)[: len(kept) // 2]:
                path.unlink()


@pytest.fixture
def mesh() -> Callable[..., Mesh]:
    """Returns `mesh(data, model=1)`: a (data, model) mesh over the first data * model devices."""

    def make(data: int = DEVICES, model: int = 1) -> Mesh:
        devices = np.array(jax.devices()[: data * model]).reshape(data, model)
        return Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))

    return make


@pytest.fixture(scope="session")
def on_one_device() -> Callable[[pytest.MonkeyPatch], None]:
    """Returns `on_one_device(patch)`: what runs in this process has one device, as a user's CPU."""

    def give(patch: pytest.MonkeyPatch) -> None:
        from mmjax import sharding

        one = sharding.make_mesh(devices=jax.devices()[:1])
        patch.setattr(sharding, "make_mesh", lambda *sizes, **more: one)

    return give


Golden = dict[str, np.ndarray]
Folder = Callable[..., Path]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Returns `golden(name)`: the arrays of tests/goldens/NAME.npz."""

    def load(name: str) -> Golden:
        with np.load(GOLDENS / f"{name}.npz") as file:
            return dict(file)

    return load


def _write_tokenizer(path: Path, vocab_size: int = 50) -> None:
    """A tokenizer of the words w4 .. wN, with BERT's frame, and padding to 128 switched on."""
    special = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}
    words = {f"w{i}": i for i in range(4, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel({**special, **words}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(path))


@pytest.fixture(scope="session")
def write_tokenizer() -> Callable[..., None]:
    """Returns `write_tokenizer(path, vocab_size=50)`."""
    return _write_tokenizer


@pytest.fixture(scope="session")
def write_folder(golden: Callable[[str], Golden]) -> Folder:
    """Returns `write_folder(path, name, ...)`: a golden as a checkpoint folder at `path`."""

    def make(
        path: Path,
        name: str,
        rename: Callable[[str], str] = lambda key: key,
        config: dict[str, Any] | None = None,
        tensors: dict[str, np.ndarray] | None = None,
        drop: tuple[str, ...] = (),
    ) -> Path:
        arrays = golden(name)
        path.mkdir(exist_ok=True)
        full = {**json.loads(str(arrays["config"])), **(config or {})}
        (path / "config.json").write_text(json.dumps(full))
        weights = {
            rename(key.removeprefix("tensor:")): value
            for key, value in arrays.items()
            if key.startswith("tensor:")
        }
        weights = {k: v for k, v in weights.items() if k not in drop} | (tensors or {})
        save_file(weights, path / "model.safetensors")
        _write_tokenizer(path / "tokenizer.json")
        (path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
        return path

    return make


@pytest.fixture
def folder(tmp_path: Path, write_folder: Folder) -> Folder:
    """Returns `folder(name, ...)`: the same in a folder of this test's own."""
    return lambda name, *args, **options: write_folder(tmp_path / name, name, *args, **options)


@pytest.fixture(scope="session")
def whole_card() -> Callable[..., dict[str, Any]]:
    """Returns `whole_card(task="contrastive", **changes)`: an adapter's card with all it must say.

    `params` and `trainable` are those of the adapter; `save_adapter` writes its own.
    """

    from tests.cards import whole_card as make

    return make


@pytest.fixture
def say(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    on_one_device: Callable[[pytest.MonkeyPatch], None],
) -> Callable[..., Any]:
    """Returns `say(*arguments, stdin="")`: the chat in this process -> (code, stdout, stderr)."""
    from mmjax import chat
    from mmjax.processes import starting

    # This process has its devices; of which one is enough.
    monkeypatch.setattr(starting, "set_up", lambda *_: None)
    on_one_device(monkeypatch)

    def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            code = chat.main(arguments)
        except SystemExit as end:
            code = int(str(end.code))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run

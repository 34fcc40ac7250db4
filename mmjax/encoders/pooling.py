"""How a text's tokens become one vector, and what sentence-transformers' files say about it."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.checks import foreign, ranges
from mmjax.errors import MmjaxError
from mmjax.files import read_json_object

PoolingName = Literal["mean", "cls", "max"]


@dataclasses.dataclass(frozen=True)
class Pooling:
    """Which tokens are joined how, and whether the result is brought to length 1."""

    name: PoolingName = "mean"
    normalize: bool = False

    def __call__(
        self, tokens: Float[Array, "b l d"], mask: Int[Array, "b l"]
    ) -> Float[Array, "b d"]:
        """Pools.

        Args:
          tokens: float [b, l, d].
          mask: int [b, l], 1 at real tokens.

        Returns:
          Float32 [b, d].
        """
        tokens = tokens.astype(jnp.float32)
        weights = mask[..., None].astype(jnp.float32)
        if self.name == "cls":
            pooled = tokens[:, 0]
        elif self.name == "max":
            pooled = jnp.where(weights > 0, tokens, -1e9).max(1)
        else:
            pooled = (tokens * weights).sum(1) / jnp.maximum(weights.sum(1), 1e-9)
        return self.unit(pooled) if self.normalize else pooled

    @staticmethod
    def unit(pooled: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """Brings every vector to length 1."""
        norm = jnp.linalg.norm(pooled, axis=-1, keepdims=True)
        return pooled / jnp.maximum(norm, 1e-12)


@dataclasses.dataclass(frozen=True)
class PoolingDense:
    """A dense layer of sentence-transformers on the pooled vector."""

    folder: Path  # holds its weights
    out_features: int
    bias: bool
    activation: Literal["identity", "tanh"]


def load_pooling(folder: Path, name: str | None = None) -> Pooling:
    """Reads the pooling of a sentence-transformers folder.

    Args:
      folder: may hold `modules.json`.
      name: overrides the files: "mean", "cls" or "max".

    Returns:
      The pooling. A plain BERT's folder says nothing about it: the mean, not normalised, is taken,
      as sentence-transformers does with such a folder.

    Raises:
      MmjaxError: a module or a pooling that is not supported.
    """
    pooling = Pooling()
    path = folder / "modules.json"
    if path.is_file():
        pooling = _read_modules(path)
    if name is not None:
        pooling = dataclasses.replace(pooling, name=_checked(name, "pooling="))
    return pooling


def load_dense(folder: Path) -> PoolingDense | None:
    """Reads the dense layer of a sentence-transformers folder, where it has one.

    Args:
      folder: may hold `modules.json`.

    Returns:
      The layer's description.

    Raises:
      MmjaxError: an activation that is not supported.
    """
    path = folder / "modules.json"
    folders = [place for kind, place in _modules(path) if kind == "Dense"] if path.is_file() else []
    if not folders:
        return None
    config = read_json_object(folders[0] / "config.json")
    ranges.check_ranges(config, str(folders[0] / "config.json"), _DENSE)
    if "out_features" not in config:
        raise MmjaxError(f"{folders[0] / 'config.json'} lacks 'out_features'")
    act = str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1].lower()
    if act not in ("tanh", "identity"):
        raise MmjaxError(f"{folders[0] / 'config.json'}: activation {act!r}; use Tanh or Identity")
    bias = bool(config.get("bias", True))
    return PoolingDense(folders[0], config["out_features"], bias, act)  # pyright: ignore[reportArgumentType]


def _modules(path: Path) -> list[tuple[str, Path]]:
    """(kind, folder) of each module."""
    modules = foreign.read_bounded_json(path)
    try:
        ranges.several(ranges.keyed(_MODULE), most=20)(str(path), modules)
        pairs = [(m["type"].rsplit(".", 1)[-1], m.get("path", "")) for m in modules]
    except (KeyError, MmjaxError) as error:
        raise MmjaxError(f"{path} is not a list of modules ({error})") from error
    for _, place in pairs:
        if place not in ("", ".") and Path(place).name != place:
            raise MmjaxError(f"{path} leads out of its folder: {place}")
    return [(kind, path.parent / place) for kind, place in pairs]


_MODULE = {"type": ranges.text(), "path": ranges.text()}
_DENSE = {
    "in_features": ranges.whole(1, foreign.WIDEST),
    "out_features": ranges.whole(1, foreign.WIDEST),
    "bias": ranges.flag,
    "activation_function": ranges.text(),
}
_SUPPORTED = ("Transformer", "Pooling", "Dense", "Normalize")


def _read_modules(path: Path) -> Pooling:
    modules = _modules(path)
    kinds = [kind for kind, _ in modules]
    pooling = Pooling(normalize="Normalize" in kinds)
    for kind, folder in modules:
        if kind not in _SUPPORTED:
            raise MmjaxError(
                f"{path}: module {kind!r} is not supported; only {', '.join(_SUPPORTED)}"
            )
        if kind == "Pooling":
            pooling = dataclasses.replace(pooling, name=_pooling_name(folder / "config.json"))
    if kinds.count("Dense") > 1:
        raise MmjaxError(f"{path}: {kinds.count('Dense')} Dense modules, but only one is supported")
    if kinds != sorted(kinds, key=_SUPPORTED.index):
        raise MmjaxError(f"{path}: modules in the order {kinds}; expected {list(_SUPPORTED)}")
    return pooling


def _pooling_name(path: Path) -> PoolingName:
    config = read_json_object(path)
    modes = [key for key in config if key.startswith("pooling_mode_")]
    ranges.check_ranges(config, str(path), dict.fromkeys([*modes, "include_prompt"], ranges.flag))
    if not config.get("include_prompt", True):
        raise MmjaxError(f"{path}: include_prompt is false, which is not supported")
    if isinstance(config.get("pooling_mode"), str):
        return _checked(config["pooling_mode"], str(path))
    keys = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    keys["pooling_mode_max_tokens"] = "max"
    chosen = [key for key, value in config.items() if key.startswith("pooling_mode") and value]
    if len(chosen) != 1 or chosen[0] not in keys:
        raise MmjaxError(
            f"{path}: exactly one of {', '.join(keys)} must be true, got {chosen or 'none'}"
        )
    return _checked(keys[chosen[0]], str(path))


def _checked(name: str, where: str) -> PoolingName:
    if name not in get_args(PoolingName):
        raise MmjaxError(f"{where}: unknown pooling {name!r}; use 'mean', 'cls' or 'max'")
    return name  # pyright: ignore[reportReturnType]

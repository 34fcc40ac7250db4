"""The models of a synthesis by their settings: who writes, who judges, who sees."""

from pathlib import Path

from mmjax.data.markers import markers_of
from mmjax.encoders.language_model import LanguageModel
from mmjax.encoders.load import load_encoder
from mmjax.errors import MmjaxError
from mmjax.predict import load_adapter
from mmjax.specs.synthesis import SynthesisSpec
from mmjax.synthesis.generate import AdaptedWriter, LlavaWriter, Writer
from mmjax.synthesis.judge import Looker, looker_of
from mmjax.tasks.instruct.answering import Answering

_LLAVA, _OWN = "llava:", "synthesizer"  # a model by itself; the adapter that is tuned here


def load_writer(spec: SynthesisSpec, folder: Path) -> Writer:
    """Who writes tasks.

    Args:
      spec: names it.
      folder: of the run, where a synthesizer was tuned.

    Raises:
      MmjaxError: it is none, or cannot be loaded.
    """
    most = spec.generate.max_new_tokens
    if spec.synthesizer.startswith(_LLAVA):
        marks = markers_of(spec.markers)
        return LlavaWriter(_sees(spec.synthesizer), most, len(marks.user + marks.gap))
    return AdaptedWriter(_adapted(spec.synthesizer or _OWN, folder), most)


def load_looker(spec: SynthesisSpec, folder: Path) -> Looker:
    """Who sees the pictures of tasks; arguments as for `load_writer`, as are errors."""
    name = spec.filter.looker
    return looker_of(_sees(name)) if name.startswith(_LLAVA) else _adapted(name, folder).score


def load_judge(spec: SynthesisSpec) -> LanguageModel:
    """Who weighs whether answers agree.

    Raises:
      MmjaxError: it is no language model, or cannot be loaded.
    """
    model = load_encoder(spec.filter.judge, dtype=spec.filter.dtype)
    if not isinstance(model, LanguageModel):
        raise MmjaxError(
            f"config.filter.judge is {spec.filter.judge!r}, which is no language model"
        )
    return model


def _sees(name: str) -> LanguageModel:
    model = load_encoder(name.removeprefix(_LLAVA), tower="text")
    if not isinstance(model, LanguageModel):
        raise MmjaxError(f"{name} is no language model that sees")
    return model


def _adapted(name: str, folder: Path) -> Answering:
    place = folder / _OWN if name == _OWN else Path(name)
    adapted = load_adapter(place)
    if not isinstance(adapted, Answering):
        raise MmjaxError(f"{place} holds an adapter that writes no texts; give an instruct run")
    return adapted

"""What the trunk may ask of `instruct`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mmjax.adapters.lora import Lora
from mmjax.data.labels import LeftOut
from mmjax.data.library import Library
from mmjax.evals.perplexity import read_text
from mmjax.evals.probe import check_installed
from mmjax.interop.peft import export_lora
from mmjax.report.page import Report, Table
from mmjax.report.results import Results
from mmjax.runs.hub import PREFIX
from mmjax.specs.recipe import Recipe
from mmjax.tasks import reporting
from mmjax.tasks.base import Task
from mmjax.tasks.defaults import Defaults
from mmjax.tasks.instruct import shapes
from mmjax.tasks.instruct.answering import Answering
from mmjax.tasks.instruct.assembly import Instructed, assemble_instruct, start_of
from mmjax.tasks.instruct.build import adapter_of, make_instruct
from mmjax.tasks.instruct.checks import check_questions
from mmjax.tasks.instruct.results import answer_tables, headline, measure_instruct, router_curves
from mmjax.tasks.instruct.samples import read_samples
from mmjax.tasks.instruct.task import InstructTask
from mmjax.tasks.instruct.towers import encoders_of
from mmjax.tasks.planned import Planned
from mmjax.tasks.run import Run, stage_of
from mmjax.trees import PyTree

PEFT = "peft"
# Answers about pictures and plain text lose on scales of their own.
LOSSES = ("picture_loss", "text_loss")
CURVES = (*LOSSES, "val/vqa_acc", "val/vqa_yes_no", "val/vqa_other", "val/token_log_prob")


class Instruct(Defaults):
    """See `mmjax.tasks.definition.Definition`."""

    answers = True

    def check(self, run: Run, library: Library) -> None:
        """Reads the questions, and holds the sizes against them."""
        super().check(run, library)
        start_of(run)
        check_questions(run.stage, run.seed, library)

    def check_asked(self, recipe: Recipe, library: Library) -> None:
        """Probes need scikit-learn, perplexity its text."""
        if "probe" in recipe.evals:
            check_installed()
        if "text" in recipe.evals:
            read_text(recipe.main.questions.text)

    def task(self, run: Run, base: Task | None, library: Library) -> InstructTask:
        """The parts in both towers."""
        return make_instruct(run.stage, *encoders_of(run.stage, library))

    def assemble(self, run: Run, library: Library) -> Instructed:
        """Puts the run together."""
        return assemble_instruct(run, library)

    def planned(self, run: Run, base: Planned | None, library: Library) -> Planned:
        """What the run's programs are made for; see `mmjax.tasks.planned`."""
        return shapes.planned(run, base, library)

    def left_out(self, recipe: Recipe, library: Library) -> Sequence[LeftOut]:
        """Questions have no classes."""
        return ()

    def measure(self, runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
        """Answers with and without the picture."""
        return measure_instruct(runs, recipe, library)

    def tables(self, results: Results) -> list[Table]:
        """Answers, plain text, the router."""
        r = results
        return answer_tables(r.systems, r.labels, r.counts, r.routing, r.learned)

    def headline(self, results: Results) -> list[tuple[str, str]]:
        """Accuracy, or perplexity."""
        return headline(results.systems)

    def report(
        self, results: Results, runs: Sequence[Run], recipe: Recipe, library: Library
    ) -> Report:
        """Tables, curves, what the router learned."""
        drawn, main = reporting.curves(runs, CURVES, samples=True), reporting.main_run(runs)
        return reporting.make_report(
            results,
            main,
            library,
            summary="A frozen language model answers questions about what a frozen vision "
            "transformer sees, through small trained adapters.",
            headline=self.headline(results),
            tables=self.tables(results),
            curves=(*drawn, *router_curves(results.routing)),
            notes=reporting.notes_on_texts(library),
            samples=read_samples(main.folder),
        )

    def load(self, folder: Path, allow_other_encoder: bool, mesh: Mesh | None) -> Answering:
        """The language model with its adapters."""
        return Answering.load(folder, allow_other_encoder, mesh)

    def share(self, folder: Path, params: PyTree, card: Mapping[str, Any]) -> None:
        """A LoRA of a plain language model in PEFT's own files, in a folder `peft`.

        In a model with an image tower of its own the decoder's modules have other names, and in an
        Mllama other numbers: none is written.
        """
        stage = stage_of(card)
        adapter = adapter_of(stage.instruct, "language")
        if (
            "image" not in stage.encoders
            or not isinstance(adapter, Lora)
            or type(adapter) is not Lora
        ):
            return
        source = stage.encoders["language"].source.removeprefix(PREFIX)
        export_lora(folder / PEFT, adapter, params["language"], source)


INSTRUCT = Instruct()

"""A synthesis from end to end: pairs, a tuned synthesizer, tasks, a filter, conversations, a page.

Every step reads the files of the steps before it and leaves one of its own; `summary.json` says of
what each was made. A step is made again where its settings or its files are other ones now.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from mmjax import study
from mmjax.data.files import read_jsonl
from mmjax.data.markers import markers_of
from mmjax.data.turn_records import as_line, read_records
from mmjax.errors import MmjaxError, writing
from mmjax.files import digest_of, read_optional_json, write_json
from mmjax.progress import track
from mmjax.runs import run_folder
from mmjax.specs.recipe import resolve_recipe
from mmjax.specs.synthesis import SynthesisSpec
from mmjax.synthesis import asking, audit, dedup, emoji, formats, tuning
from mmjax.synthesis.compose import (
    Composition,
    Kept,
    compose,
    stage_of,
    with_kept,
)
from mmjax.synthesis.generate import Generating, generate_tasks, with_tasks
from mmjax.synthesis.judge import OWN, Examples, Judge
from mmjax.synthesis.known import KnownFiles
from mmjax.synthesis.lines import write_lines
from mmjax.synthesis.models import load_judge, load_looker, load_writer
from mmjax.synthesis.parts import Failure, Outcome, Parts
from mmjax.synthesis.quality import AUDIT, COMPOSED, FAILED, GENERATED, PAIRS, SUMMARY
from mmjax.synthesis.report import write_report
from mmjax.synthesis.templates import Wordings

FREE = ("filter", "compose")  # settings that may change in a run folder: nothing is written anew
TUNING = "tuning.jsonl"
_END: tuple[int, Outcome] = (-1, {})
log = logging.getLogger("mmjax")


class Synthesis:
    """A synthesis in its run folder."""

    def __init__(
        self,
        spec: SynthesisSpec,
        config: Mapping[str, Any],
        workdir: Path,
        command: str = "",
        shard: tuple[int, int] = (0, 1),
        retry_failed: bool = False,
    ) -> None:
        """Takes the folder; nothing is made yet.

        Args:
          spec: settings.
          config: the same as plain values, as the folder keeps them.
          workdir: the run folder; another recipe's is refused.
          command: what the user typed.
          shard: (which share of writing and judging is this process's own, of how many).
          retry_failed: whether what failed before is tried again.

        Raises:
          MmjaxError: the folder is another recipe's, or cannot be made.
        """
        self._spec, self._folder, self._command = spec, workdir, command
        self._shard, self._retry = shard, retry_failed
        self._known = KnownFiles(workdir / ".known_files.json")
        self._words = Wordings.read(spec.wordings)
        if spec.filter.near_duplicates == "minhash":
            dedup.check_installed()
        if not spec.synthesizer:
            resolve_recipe(self._tuning())  # a mistake in it is told before the folder is taken
        with writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if (workdir / run_folder.CONFIG).is_file():
                run_folder.check_same(workdir, config, FREE)
            write_json(workdir / run_folder.CONFIG, run_folder.kept(config))

    def run(self) -> bool:
        """Does what is not done yet.

        Returns:
          Whether all is done; False where other shards or answers are waited for.

        Raises:
          MmjaxError: damaged files, or anything that a step refuses.
        """
        spec, folder = self._spec, self._folder
        with self._alone():
            self._pairs()
            if not spec.synthesizer:
                self._tune()
        written = self._ask() if spec.synthesizer == "requests" else self._generate()
        if not written:
            return False
        # Scores are of rows of this very file, by this very judge: a file that was healed takes
        # over those of the tasks that it shares with the one before.
        own, of = self._known.sha256(folder / GENERATED)[:12], self._judge_digest()
        place = folder / "judge" / f"{of}-{own}"
        judged = Parts(place, self._known.rows(folder / GENERATED), *self._shard)
        if spec.filter.judge and judged.left():
            with self._alone():
                earlier = sorted(set(place.parent.glob(f"{of}-*")) - {place})
                judged.carry(lambda: audit.carried(folder / GENERATED, earlier))
        if spec.filter.judge and judged.left():
            judge = Judge(load_judge(spec), Examples.read(self._examples))
            audit.judge_tasks(folder / GENERATED, judged, judge, spec.filter.batch_size)
        if spec.filter.judge and self._waits(judged, "judged"):
            return False
        looked = self._looked(own)
        if looked is not None and self._waits(looked, "looked at"):
            return False
        with self._alone():
            self._filter(judged, looked)
            self._compose()
            for stage in spec.compose.stages:
                self._stage(stage)
            write_report(folder, images=Path(), command=self._command, seed=spec.seed)
        return True

    def _pairs(self) -> None:
        spec, data = self._spec, self._folder / "data"

        def make() -> None:
            if spec.pairs == "emoji":
                emoji.write_domain(data, spec.seed, self._words.cues, limit=spec.limit)
                source = f"records:{data / PAIRS}"
            else:
                source = spec.pairs
            records = formats.iter_records(
                source, spec.images, self._words.cues, into=data / "images"
            )
            chosen = itertools.islice(records, spec.limit or None)
            if not write_lines(self._folder / PAIRS, (record.line() for record in chosen)):
                raise MmjaxError(f"{spec.pairs} has no pairs of images and captions")

        settings = [spec.pairs, spec.images, spec.limit, spec.seed, spec.wordings]
        self._step("pairs", settings, [], self._folder / PAIRS, make)

    def _tune(self) -> None:
        """Trains the synthesizer; a run folder of its own keeps what is done of that."""
        spec, path = self._spec, self._folder / TUNING
        seeds, share, cues = self._seeds, spec.generate.blank_share, self._words.cues

        def make() -> None:
            records = formats.iter_records(seeds, spec.images, cues)
            shown = (tuning.blank(record, share, spec.seed) for record in records)
            each = (
                tuning.tuning(example, cues, spec.seed, spec.generate.triplets) for example in shown
            )
            write_lines(path, (record.line() for some in each for record in some))

        self._step("tuning", [seeds, spec.seed, share, spec.wordings], [], path, make)
        config, place, began = self._tuning(), self._folder / "synthesizer", time.monotonic()
        done = (place / study.RESULTS).is_file()
        study.run(resolve_recipe(config), config, place, self._command)
        if not done:
            self._note("synthesizer", "", time.monotonic() - began)

    def _tuning(self) -> dict[str, Any]:
        """The recipe that makes the synthesizer."""
        own = self._spec.tune.get("questions", {})
        source = {"source": f"records:{self._folder / TUNING}", "markers": self._spec.markers}
        return {**self._spec.tune, "questions": {**own, **source}}

    def _generate(self) -> bool:
        """Whether every pair's tasks are written; this shard writes its own."""
        spec, pairs, began = self._spec, self._folder / PAIRS, time.monotonic()
        how = Generating(
            markers_of(spec.markers),
            self._words.cues,
            spec.generate.batch_size,
            spec.generate.triplets,
            spec.generate.tries,
        )
        parts = Parts(self._folder / "generate", self._known.rows(pairs), *self._shard)
        again = self._retry and (self._folder / FAILED).exists()
        if parts.left() or again:
            generate_tasks(pairs, parts, load_writer(spec, self._folder), how, self._retry)
        if self._waits(parts, "written"):
            return False
        with self._alone():
            if again or not (self._folder / GENERATED).exists():
                self._keep(parts.merged())
                self._note("generate", "", time.monotonic() - began)
        return True

    def _ask(self) -> bool:
        """Whether another program has answered; writes requests, or asks a server itself."""
        failures: dict[str, Failure] = {}

        def make() -> None:
            self._keep(asking.outcomes(self._spec, self._folder, failures), failures)

        with self._alone():
            if not asking.has_answers(self._spec, self._folder, failures, self._retry):
                return False
            inputs = [self._folder / PAIRS, self._folder / asking.RESPONSES]
            settings = self._spec.generate.triplets
            self._step("generate", settings, inputs, self._folder / GENERATED, make)
        return True

    def _keep(
        self, outcomes: Iterable[tuple[int, Any]], failures: dict[str, Failure] | None = None
    ) -> None:
        """Writes what was made of the pairs, and what failed."""
        failed = {} if failures is None else failures

        def lines() -> Iterator[str]:
            stream = iter(outcomes)
            row, outcome = next(stream, _END)
            records = track(read_records(self._folder / PAIRS), "gathering tasks")
            for number, record in enumerate(records):
                if number != row:
                    continue
                if isinstance(outcome, Failure):
                    failed[record.id] = outcome
                else:
                    yield with_tasks(record, dict(outcome)).line()
                row, outcome = next(stream, _END)

        write_lines(self._folder / GENERATED, lines())
        rows = [
            {"id": name, "step": "generate", "error": failure.error, "tries": failure.tries}
            for name, failure in failed.items()
        ]
        if rows or (self._folder / FAILED).exists():
            write_lines(self._folder / FAILED, map(as_line, rows))
        for row in rows[:3]:
            log.warning("%s failed: %s", row["id"], row["error"])

    @property
    def _examples(self) -> Path:
        return Path(self._spec.filter.examples) if self._spec.filter.examples else OWN

    def _judge_digest(self) -> str:
        """Stands for who judges, and by which examples; "none" where nobody does."""
        spec = self._spec.filter
        if not spec.judge:
            return "none"
        return digest_of([spec.judge, spec.dtype, self._known.sha256(self._examples)])[:12]

    def _looked(self, own: str) -> Parts | None:
        """What those say who see the pictures, this shard's share done; None where nobody does.

        Args:
          own: stands for the file of tasks.
        """
        generated, spec = self._folder / GENERATED, self._spec
        if not spec.filter.looker:
            return None
        of = f"looked-{digest_of(spec.filter.looker)[:12]}"
        place = self._folder / "judge" / f"{of}-{own}"
        looked = Parts(place, self._known.rows(generated), *self._shard)
        if looked.left():
            with self._alone():
                earlier = sorted(set(place.parent.glob(f"{of}-*")) - {place})
                looked.carry(lambda: audit.carried(generated, earlier, seen=True))
        if looked.left() or (self._retry and looked.failed()):
            how = spec.filter.batch_size, spec.generate.tries, self._retry
            audit.look_at_tasks(generated, looked, load_looker(spec, self._folder), *how)
        return looked

    def _filter(self, judged: Parts, looked: Parts | None) -> None:
        spec, generated = self._spec.filter, self._folder / GENERATED

        def rows() -> Iterator[Mapping[str, Any]]:
            if spec.judge:
                choice = audit.Choice(spec.threshold, spec.keep_rate)
                verdicts: Iterable[Mapping[str, Any]] = audit.audit(
                    generated, judged, choice, looked
                )
            else:
                verdicts = audit.unjudged(generated)
            if spec.near_duplicates != "none":
                similarity = 1.0 if spec.near_duplicates == "exact" else spec.similarity
                fields = ("question", "precise")
                verdicts = dedup.drop_duplicates(verdicts, similarity, self._spec.seed, fields)
            return emoji.with_truth(verdicts, generated)

        def make() -> None:
            write_lines(self._folder / AUDIT, track(map(as_line, rows()), "filtering"))

        settings = [spec.judge, spec.threshold, spec.keep_rate, spec.near_duplicates]
        settings += [spec.similarity, self._spec.seed, self._judge_digest(), spec.looker]
        settings.append(0 if looked is None else looked.failed())  # which a retry may have healed
        self._step("filter", settings, [generated], self._folder / AUDIT, make)

    def _compose(self) -> None:
        spec = self._spec.compose
        inputs = [self._folder / GENERATED, self._folder / AUDIT]

        def make() -> None:
            both = with_kept(read_records(inputs[0]), read_jsonl(inputs[1]))
            made = (
                compose(record, kept, self._words, self._spec.seed, self._how).line()
                for record, kept in both
            )
            shown = track(made, "composing", self._known.rows(inputs[0]))
            if not write_lines(self._folder / COMPOSED, shown):
                raise MmjaxError(f"{inputs[0]} has no records: every pair failed; see {FAILED}")

        settings = [spec.answer, spec.caption, spec.inversion_rate, self._spec.wordings]
        settings.append(self._spec.seed)
        self._step("compose", settings, inputs, self._folder / COMPOSED, make)

    def _stage(self, name: str) -> None:
        """Writes the data of another order of training."""
        own, spec, folder = self._spec, self._spec.compose, self._folder
        rules = folder / "data" / "rules.jsonl"
        kept = [folder / GENERATED, folder / AUDIT]
        inputs = {"general": [], "rules": [rules]}.get(name, kept)
        path = folder / "stages" / f"{name}.jsonl"

        def make() -> None:
            seeds = formats.iter_records(self._seeds, own.images, self._words.cues)
            if name in ("general", "rules"):
                source = seeds if name == "general" else read_records(rules)
                records: Kept = ((record, frozenset()) for record in source)
            else:
                records = with_kept(read_records(kept[0]), read_jsonl(kept[1]))
            made = stage_of(name, records, self._words, own.seed, self._how, seeds)
            path.parent.mkdir(exist_ok=True)
            write_lines(path, track((record.line() for record in made), f"composing {name}"))

        settings = [name, spec.answer, spec.caption, spec.inversion_rate, spec.most_tasks]
        settings += [own.wordings, own.seed, self._seeds]
        self._step(f"stage {name}", settings, inputs, path, make)

    @property
    def _how(self) -> Composition:
        spec = self._spec.compose
        return Composition(spec.caption, "kept", spec.answer, spec.inversion_rate, spec.most_tasks)

    @property
    def _seeds(self) -> str:
        return self._spec.seeds or f"records:{self._folder / 'data' / 'seeds.jsonl'}"

    def _waits(self, parts: Parts, what: str) -> bool:
        left = parts.left()
        if left:
            print(
                f"{left} records are not {what} yet; the other shards do them, or the same command "
                "without --shard"
            )
        return bool(left)

    def _alone(self) -> FileLock:
        """Holds back the other shards of this run while files that all share are made."""
        return FileLock(self._folder / ".steps.lock")

    def _step(
        self, name: str, settings: Any, inputs: list[Path], path: Path, make: Callable[[], None]
    ) -> None:
        """Makes a file, unless it is there and was made of the same settings and files."""
        digest = digest_of([settings, *map(self._known.sha256, inputs)])
        summary = read_optional_json(self._folder / SUMMARY)
        step = summary.get("steps", {}).get(name, {})
        if path.exists() and step.get("digest") == digest:
            return
        began = time.monotonic()
        make()
        self._note(name, digest, time.monotonic() - began)

    def _note(self, name: str, digest: str, seconds: float) -> None:
        path = self._folder / SUMMARY
        summary = read_optional_json(path)
        steps = {**summary.get("steps", {}), name: {"digest": digest, "seconds": seconds}}
        config = run_folder.read_recipe(self._folder)
        write_json(path, {"command": self._command, "settings": config, "steps": steps})

"""Measures a trained instruct adapter by benchmarks of vision-language models."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mmjax.errors import MmjaxError
from mmjax.predict import load_adapter
from mmjax.report.page import print_table
from mmjax.synthesis.benchmark_tables import tables
from mmjax.synthesis.evaluate import Pictures, evaluate
from mmjax.tasks.instruct.answering import Answering


def evaluate_adapter(
    folder: Path,
    names: Sequence[str],
    root: Path,
    workdir: Path,
    limit: int = 0,
    max_new_tokens: int = 256,
    retry: bool = False,
) -> None:
    """Asks an adapter the questions of benchmarks, and prints the tables.

    Args:
      folder: a run folder, or an adapter's.
      names: of benchmarks, as in `mmjax.evals.benchmarks.BENCHMARKS`.
      root: holds a folder a benchmark.
      workdir: takes answers and results.
      limit: at most so many questions a benchmark (0: all).
      max_new_tokens: of an answer.
      retry: whether questions without an answer are asked again.

    Raises:
      MmjaxError: an adapter that answers nothing, or whatever `evaluate` refuses.
    """
    adapted = load_adapter(folder)
    if not isinstance(adapted, Answering):
        raise MmjaxError(f"{folder} holds an adapter that answers nothing; give an instruct run")

    def answer(prompts: Sequence[str], shown: Pictures) -> list[str]:
        texts = [""] * len(prompts)
        for rows, images in _by_picture(shown):
            questions = [prompts[i] for i in rows]
            replies = adapted.answer(questions, images, max_new_tokens) if rows else []
            for row, reply in zip(rows, replies, strict=True):
                texts[row] = reply.text
        return texts

    def score(
        prompts: Sequence[str], options: Sequence[Sequence[str]], shown: Pictures
    ) -> list[list[float]]:
        scores = [list[float]() for _ in prompts]
        for rows, images in _by_picture(shown):
            questions, each = [prompts[i] for i in rows], [options[i] for i in rows]
            for row, several in zip(rows, adapted.score(questions, each, images), strict=True):
                scores[row] = [option.log_prob for option in several]
        return scores

    system = adapted.card.get("name") or folder.name
    rows = evaluate(
        answer, names, root, workdir, system=str(system), score=score, limit=limit, retry=retry
    )
    for table in tables([(str(system), rows)]):
        print_table(table)


def _by_picture(
    shown: Pictures,
) -> list[tuple[list[int], list[Image.Image] | None]]:
    """(rows, their pictures) of questions with one, then of those without."""
    with_one = [(i, picture) for i, picture in enumerate(shown) if picture is not None]
    without = [i for i, picture in enumerate(shown) if picture is None]
    return [([i for i, _ in with_one], [picture for _, picture in with_one]), (without, None)]

"""Answers on the report's page: some test questions, their pictures, and what each model says."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax.checks.foreign import reading
from mmjax.encoders.pictures import open_image
from mmjax.errors import MmjaxError, writing
from mmjax.files import read_optional_json, write_json
from mmjax.generation import generate
from mmjax.report.samples import Sample, Samples, shorten, thumbnail
from mmjax.rng import seed_for
from mmjax.tasks.instruct.easy_vqa import AskFn, InstructData
from mmjax.tasks.run import Run

COUNT, SIDE = 8, 160  # questions, pixels of their pictures
LONGEST = 48  # tokens of an answer, and a quarter of what the model reads at most
FOLDER = "samples"


def choose(data: InstructData, seed: int, most: int) -> list[int]:
    """Numbers of test questions, each about another picture while there are enough.

    Args:
      data: has the questions.
      seed: draws them.
      most: tokens that an answer may have; questions that leave no room for them are passed over.
    """
    asked, room = data.test["adapted"].conversations, data.language.config.max_length - most
    random = np.random.default_rng(seed_for(seed, "samples"))
    drawn: list[int] = random.permutation(len(asked)).tolist()
    order = [i for i in drawn if asked.rows[i].answers[0] <= room]
    firsts = list({int(asked.images[i]): i for i in reversed(order)}.values())
    rest = [i for i in order if i not in set(firsts)]
    return sorted((firsts[::-1] + rest)[:COUNT])


def keep_samples(run: Run, data: InstructData, said: AskFn) -> None:
    """Asks some test questions and keeps the answers, with small pictures, in the run's folder.

    Args:
      run: the main stage, finished.
      data: its questions.
      said: what the adapted model writes; see `Speaker.said`.

    Raises:
      MmjaxError: the folder cannot be written.
    """
    room = data.language.config.max_length // 4
    most = min(run.stage.questions.max_new_tokens, LONGEST, room)
    numbers, asked = choose(data, run.data_seed, most), data.test["adapted"].conversations
    if not numbers:
        return
    few = dataclasses.replace(
        asked, rows=[asked.rows[i] for i in numbers], images=asked.images[numbers]
    )
    adapted = said(few, most)
    frozen = generate(data.language, [row.prompt for row in few.rows], most)
    if jax.process_index() != 0:
        return
    decode, ends = data.language.preprocess.tokenizer.decode, data.language.chat.eos_token_ids
    folder, rows = run.folder / FOLDER, list[dict[str, Any]]()
    with writing(folder):
        folder.mkdir(exist_ok=True)
    for number, row, ours, theirs in zip(numbers, few.rows, adapted, frozen, strict=True):
        picture = data.shown[number]
        if picture is not None:
            png = thumbnail(open_image(picture).copy(), SIDE)
            with writing(folder):
                (folder / f"{number}.png").write_bytes(png)
        rows.append(
            {
                "number": number,
                "question": row.prompt.strip(),
                "wanted": decode(
                    [t for t in row.ids[row.answers].tolist() if t not in ends]
                ).strip(),
                "adapted": ours.strip(),
                "frozen": theirs.text.strip(),
                "picture": picture is not None,
            }
        )
    write_json(folder / "answers.json", {"rows": rows})


def read_samples(folder: Path) -> tuple[Samples, ...]:
    """What `keep_samples` kept, for the page.

    Args:
      folder: of the run.

    Returns:
      One group of examples; none where nothing was kept, or what was is damaged.
    """
    try:
        path = folder / FOLDER / "answers.json"
        rows = read_optional_json(path).get("rows", [])
        with reading(path, "kept answers", MmjaxError):
            examples = tuple(_sample(folder / FOLDER, row) for row in rows)
    except MmjaxError:
        return ()
    caption = (
        "Drawn by the seed from the test questions. The frozen language model reads the same words "
        "and sees no picture."
    )
    return (Samples("Answers", examples, caption),) if examples else ()


def _sample(folder: Path, row: dict[str, Any]) -> Sample:
    right = row["adapted"].rstrip(".").lower() == row["wanted"].rstrip(".").lower()
    lines = [("wanted", row["wanted"]), ("adapted", row["adapted"]), ("frozen", row["frozen"])]
    picture = folder / f"{int(row['number'])}.png"
    return Sample(
        shorten(row["question"]),
        "as wanted" if right else "",
        right,
        tuple((name, shorten(text) or "–") for name, text in lines),
        picture.read_bytes() if row["picture"] and picture.is_file() else None,
    )

"""Settings of a synthesis: captions to tasks to conversations; see `mmjax.synthesis`."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from mmjax.checks.names import check_name
from mmjax.errors import check
from mmjax.specs.bounds import (
    Bounds,
    Few,
    Fraction,
    Natural,
    Part,
    Scale,
    Seed,
    Share,
    Width,
    check_all,
)
from mmjax.specs.build import build

Margin = Annotated[float, Bounds(-1e3, 1e3)]


@dataclass(frozen=True)
class GenerateSpec:
    """How tasks are written.

    Attributes:
      batch_size: captions that are continued together.
      max_new_tokens: of what is written about one.
      triplets: most tasks of an image.
      tries: how often an image is read before it counts as failed.
      blank_share: of the records that the synthesizer is tuned on, shown without their picture, so
        that it learns to read captions.
    """

    batch_size: Width = 32
    max_new_tokens: Width = 96
    triplets: Few = 1
    tries: Few = 2
    blank_share: Fraction = 0.1


@dataclass(frozen=True)
class RequestsSpec:
    """Another program that writes the tasks: vLLM's server, or any with OpenAI's interface.

    Attributes:
      model: its name at the server.
      base_url: of the server, such as `http://127.0.0.1:8000/v1`; "" leaves `requests.jsonl` in the
        run folder, and reads `responses.jsonl` there once whoever answers has put it there.
      key_variable: the environment variable that holds the key; "" for a server without one.
      sees: whether it is shown the images.
      max_tokens: of an answer.
      concurrency: requests that are under way together.
      tries: how often one is sent before it counts as failed.
      timeout: seconds until a try is given up.
    """

    model: str = ""
    base_url: str = ""
    key_variable: str = ""
    sees: bool = False
    max_tokens: Width = 512
    concurrency: Few = 16
    tries: Few = 6
    timeout: Scale = 300.0


@dataclass(frozen=True)
class FilterSpec:
    """Which tasks are kept.

    Attributes:
      judge: the language model that says whether both answers agree: a folder, an asset, `hf:...`;
        "" keeps all.
      dtype: its weights'.
      batch_size: tasks that are judged together.
      examples: a file of examples in the judge's prompt; "" takes mmjax's own.
      threshold: least margin of Yes over No and Open that is kept; 0 keeps what a greedy judge
        would call consistent.
      keep_rate: keeps this share of the tasks instead, those with the largest margins.
      looker: what sees the pictures and must find each precise answer likelier right than wrong,
        besides: the run folder of an `instruct` adapter, `synthesizer` for the one that is tuned
        here, or `llava:` and a model; "" asks nobody.
      near_duplicates: questions that are left out: `none`, `exact` ones, or `minhash`, near ones.
      similarity: of near duplicates, as Jaccard's index of their words.
    """

    judge: str = "asset:smollm2-135m-instruct"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_size: Width = 32
    examples: str = ""
    threshold: Margin = 0.0
    keep_rate: Share | None = None
    looker: str = ""
    near_duplicates: Literal["none", "exact", "minhash"] = "none"
    similarity: Part = 0.8


@dataclass(frozen=True)
class ComposeSpec:
    """How kept tasks become conversations.

    Attributes:
      answer: `fused` reasons and concludes; `precise` or `informative` takes one of the answers.
      caption: the caption's turn comes `first`, `last`, or either, as the record's id says.
      inversion_rate: share of tasks of which the answer is given and the question asked for.
      stages: further files of `stages/`, for training in other orders and on other data:
        `captions` and `tasks` apart, `unfiltered` tasks, `general` ones (the seeds),
        `general_captions` (these beside the domain's captions) and, of `emoji`, rule-made `rules`.
      most_tasks: of a record in `unfiltered`, `general`, `general_captions` and `rules`, drawn by
        its id (0: all).
    """

    answer: Literal["fused", "precise", "informative"] = "fused"
    caption: Literal["first", "last", "random"] = "random"
    inversion_rate: Fraction = 0.0
    most_tasks: Natural = 0
    stages: tuple[
        Literal["captions", "tasks", "unfiltered", "general", "general_captions", "rules"], ...
    ] = ()


@dataclass(frozen=True)
class SynthesisSpec:
    """A whole synthesis.

    Attributes:
      name: of the recipe and its run folder.
      seed: of everything that is drawn.
      pairs: images with captions: `emoji`, or your own data: a .csv, .jsonl, .tar or .parquet file,
        `tfds:NAME`, `hf:ORG/NAME`, `folder:DIR`; see `mmjax.data.own`.
      images: folder of the images that a file names.
      limit: at most so many pairs (0: all).
      seeds: tasks that the synthesizer is tuned on: records with triplets; "" with `emoji` takes
        those of other emoji.
      wordings: cues and templates: a language that mmjax has, or a file.
      markers: how turns are marked in what the synthesizer reads and writes.
      synthesizer: what writes the tasks: the run folder of an adapter, `llava:` and a model, or
        `requests` for another program; "" tunes one first, as `tune` says.
      requests: that program.
      tune: an `instruct` recipe, whose questions are filled in.
      generate: how tasks are written.
      filter: which are kept.
      compose: how they become conversations.
    """

    name: str
    seed: Seed = 0
    pairs: str = "emoji"
    images: str = ""
    limit: Natural = 0
    seeds: str = ""
    wordings: str = "en"
    markers: Literal["plain", "chatml", "llama3", "vicuna"] = "plain"
    synthesizer: str = ""
    requests: RequestsSpec = RequestsSpec()
    tune: dict[str, Any] = field(default_factory=dict[str, Any])
    generate: GenerateSpec = GenerateSpec()
    filter: FilterSpec = FilterSpec()
    compose: ComposeSpec = ComposeSpec()

    def __post_init__(self) -> None:
        """Checks what belongs together."""
        check_all(self)
        check_name("config.name", self.name)
        tuned = bool(self.tune) == (not self.synthesizer)
        expected = "an instruct recipe where no `synthesizer` is given, and nothing where one is"
        check(tuned, "tune", dict(self.tune), expected)
        seeds = bool(self.seeds) or self.pairs == "emoji" or bool(self.synthesizer)
        named = bool(self.requests.model) == (self.synthesizer == "requests")
        expected = "a name where the synthesizer is `requests`, and none where it is another"
        check(named, "requests.model", self.requests.model, expected)
        judged = bool(self.filter.judge) or not self.filter.looker
        expected = "nothing without a `filter.judge`, whose margins it joins"
        check(judged, "filter.looker", self.filter.looker, expected)
        tuned = not self.synthesizer or self.filter.looker != "synthesizer"
        expected = "a run folder where no synthesizer is tuned here"
        check(tuned, "filter.looker", self.filter.looker, expected)
        check(seeds, "seeds", self.seeds, "records with triplets to tune the synthesizer on")


def resolve_synthesis(config: dict[str, Any]) -> SynthesisSpec:
    """A synthesis from plain values.

    Raises:
      MmjaxError: names the setting that is not as it should be.
    """
    return build(SynthesisSpec, config)

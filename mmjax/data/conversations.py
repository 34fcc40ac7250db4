"""Conversations about pictures as token arrays, in buckets of length, batch by batch."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int
from tokenizers import Tokenizer

from mmjax.data.epochs import LENGTHS, divide, walk
from mmjax.data.pipeline import Batches
from mmjax.data.tables import Table
from mmjax.data.wording import INSTRUCTION as INSTRUCTION
from mmjax.data.wording import QUESTION as QUESTION
from mmjax.data.wording import Turn, cut
from mmjax.encoders.language_model import IMAGE, TEXT, WORD
from mmjax.encoders.text_preprocess import bucket
from mmjax.errors import MmjaxError
from mmjax.sharding import own_rows

_ANSWERS = tuple(1 << i for i in range(14))


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Turns about a picture, or about none.

    Attributes:
      turns: in order; at least one is learned.
      picture: row of a table of pictures; None for text alone.
    """

    turns: tuple[Turn, ...]
    picture: int | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """What stands around the turns.

    Attributes:
      first: whether column 0 is kept for a modality token.
      bos: ids that begin every text of this model.
      image: ids in front of a picture's tokens.
      text: ids that stand there for text alone.
      taps: tokens a picture takes.
      eos: id that ends an answer.
      max_length: tokens that a row may have.
    """

    first: bool
    bos: tuple[int, ...]
    image: tuple[int, ...]
    text: tuple[int, ...]
    taps: int
    eos: int
    max_length: int

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, eos: Sequence[int], first: bool, taps: int, max_length: int
    ) -> "Layout":
        """The layout for a tokenizer, with LaVIN's words before a picture and in its place.

        Raises:
          MmjaxError: the model has no token that ends a text.
        """
        if not eos:
            raise MmjaxError("this language model names no end token, so answers could not end")

        def plain(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

        framed = tokenizer.encode("a").ids
        bos = tuple(framed[: framed.index(plain("a")[0])])
        return cls(first, bos, plain("Image: "), plain("Image: N/A"), taps, eos[0], max_length)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One conversation as columns.

    Attributes:
      ids: int32 [l]; 0 where a modality token or a picture stands.
      slots: int32 [l]: which of the picture's tokens, or `WORD`.
      answers: int32 [a], columns of the tokens that are learned.
      modality: `TEXT` or `IMAGE`.
      cut: whether the last answers lost their end to the length that a row may have.
      asked: the text before the first answer, which is cut into tokens together with it.
    """

    ids: np.ndarray
    slots: np.ndarray
    answers: np.ndarray
    modality: int
    cut: bool = False
    asked: str = ""


def encode(
    conversation: Conversation,
    tokenizer: Tokenizer,
    layout: Layout,
    where: str = "conversation",
    cut: bool = False,
) -> Encoded:
    """Lays a conversation out: modality, BOS, prefix, picture, turns; an end after each answer.

    Args:
      conversation: what is said.
      tokenizer: of the language model.
      layout: what stands around.
      where: names the conversation in messages.
      cut: drop what a row has no room for from its end, as long as some of an answer is left.

    Returns:
      Its columns.

    Raises:
      MmjaxError: nothing to learn, an empty answer, or more tokens than a row may have; with `cut`
        only where they leave no room for any answer.
    """
    ids, slots, answers = _lay_out(conversation, tokenizer, layout, where)
    if not answers:
        raise MmjaxError(f"{where} has no answer to learn; mark at least one turn")
    most = layout.max_length
    if len(ids) > most and not cut:
        raise MmjaxError(f"{where} takes {len(ids)} tokens; this model reads {most}: shorten it")
    if answers[0] >= most:
        raise MmjaxError(
            f"{where} takes {answers[0]} tokens before its first answer; this model reads {most}: "
            "shorten it or raise --config.encoders.language.max_length"
        )
    kept = [ids[:most], slots[:most], [at for at in answers if at < most]]
    columns = [np.asarray(x, np.int32) for x in kept]
    modality = TEXT if conversation.picture is None else IMAGE
    first = itertools.takewhile(lambda turn: not turn.learn, conversation.turns)
    asked = "".join(turn.text for turn in first)
    return Encoded(columns[0], columns[1], columns[2], modality, len(ids) > most, asked)


def encode_prompt(
    conversation: Conversation,
    tokenizer: Tokenizer,
    layout: Layout,
    where: str = "conversation",
) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
    """What the language model reads of a conversation whose last turn is still to be answered.

    With the answer behind it, `encode` lays out the same columns.

    Args:
      conversation: what was said.
      tokenizer: of the language model.
      layout: what stands around.
      where: names the conversation in messages.

    Returns:
      (ids, slots), int32 [l]; see `Encoded`.

    Raises:
      MmjaxError: an empty answer, or more tokens than a row may have.
    """
    ids, slots, _ = _lay_out(conversation, tokenizer, layout, where)
    if len(ids) > layout.max_length:
        raise MmjaxError(
            f"{where} takes {len(ids)} tokens; this model reads {layout.max_length}: shorten it"
        )
    return np.asarray(ids, np.int32), np.asarray(slots, np.int32)


def _lay_out(
    conversation: Conversation, tokenizer: Tokenizer, layout: Layout, where: str
) -> tuple[list[int], list[int], list[int]]:
    """(ids, slots, columns that are learned), however long."""
    picture = conversation.picture is not None
    ids = [0] * layout.first + [*layout.bos, *(layout.image if picture else layout.text)]
    slots = [WORD] * len(ids)
    if picture:
        ids += [0] * layout.taps
        slots += range(layout.taps)
    answers: list[int] = []
    for turn, found in zip(conversation.turns, cut(conversation.turns, tokenizer), strict=True):
        if turn.learn:
            if not turn.text.strip():
                raise MmjaxError(f"{where} has an empty answer; give it a text or leave it out")
            answers += range(len(ids), len(ids) + len(found) + 1)
        ids += [*found, layout.eos] if turn.learn else found
        slots += [WORD] * (len(ids) - len(slots))
    return ids, slots, answers


def collate(
    rows: Sequence[Encoded | None], length: int, answers: int, first: bool
) -> dict[str, np.ndarray]:
    """Pads rows to one shape; a None becomes a row that counts for nothing.

    Args:
      rows: b rows.
      length: columns.
      answers: answer tokens a row.
      first: whether column 0 holds a modality token, which no other column may see.

    Returns:
      `input_ids`, `image_slot`, `attention_mask` int32 [b, length]; `columns` (before each answer
      token) and `labels` int32 [b, answers], `weights` float32 [b, answers]; `modality` int32 [b].
    """
    b = len(rows)
    out = {
        "input_ids": np.zeros((b, length), np.int32),
        "image_slot": np.full((b, length), WORD, np.int32),
        "attention_mask": np.zeros((b, length), np.int32),
        "columns": np.zeros((b, answers), np.int32),
        "labels": np.zeros((b, answers), np.int32),
        "weights": np.zeros((b, answers), np.float32),
        "modality": np.zeros(b, np.int32),
    }
    for i, row in enumerate(rows):
        if row is None:
            continue
        n, a = len(row.ids), len(row.answers)
        out["input_ids"][i, :n], out["image_slot"][i, :n] = row.ids, row.slots
        out["attention_mask"][i, int(first) : n] = 1
        out["columns"][i, :a] = row.answers - 1
        out["labels"][i, :a] = row.ids[row.answers]
        out["weights"][i, :a] = 1
        out["modality"][i] = row.modality
    return out


@dataclasses.dataclass(frozen=True)
class Conversations:
    """Encoded conversations that batches are drawn from.

    A batch is of one modality, so that text alone never pays for a picture, and of rows of about
    one length; `per_picture` rows in a row share a picture, which is encoded once for all of them.

    Attributes:
      rows: encoded conversations.
      pictures: each one's row of `table`; -1 for text alone.
      table: inputs of the vision transformer, or what it said of them.
      per_picture: rows that share a picture; a picture with fewer questions is filled up with rows
        that count for nothing.
      first: whether column 0 holds a modality token.
    """

    rows: Sequence[Encoded]
    pictures: Int[np.ndarray, " n"]
    table: Table
    per_picture: int
    first: bool

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def buckets(self) -> Mapping[tuple[int, int, bool], Int[np.ndarray, " k"]]:
        """(columns, answer tokens, with a picture) -> conversations, neighbours side by side."""
        found: dict[tuple[int, int, bool], list[int]] = {}
        for i, size in enumerate(self._sizes):
            found.setdefault((*size, bool(self.pictures[i] >= 0)), []).append(i)
        return {shape: np.asarray(found[shape]) for shape in sorted(found, key=walk)}

    def plan(self, batch_size: int, rng: np.random.Generator | None) -> list[list[list[int]]]:
        """One epoch, in which every conversation stands once.

        Conversations are walked through bucket by bucket, so a batch is of one bucket but where
        the walk goes on to the next: there the larger shape holds the rows of both. No epoch has
        more shapes than it has batches, and all of them together no more than there are pairs of a
        number of columns and one of answer tokens.

        Args:
          batch_size: rows a batch, a multiple of `per_picture`.
          rng: shuffles; None keeps the order.

        Returns:
          Batches of groups, a group at most `per_picture` conversations about one picture. For
          pictures and for text alone all batches but one have `batch_size / per_picture` groups;
          which one has fewer, the epoch draws, so that no row weighs more in the end.
        """
        each, batches = self.per_picture, []
        for picture in (False, True):
            heaps: dict[int, list[int]] = {}
            for shape, members in self.buckets.items():
                if shape[2] == picture:
                    for i in members if rng is None else rng.permutation(members):
                        heaps.setdefault(int(self.pictures[i]), []).append(int(i))
            groups = [
                heap[at : at + each] for heap in heaps.values() for at in range(0, len(heap), each)
            ]
            if rng is not None:
                groups = [groups[i] for i in rng.permutation(len(groups))]
            # Whole groups first: batches are full but for a few at a bucket's end.
            groups.sort(key=lambda g: (walk((*self._shape(g), picture)), -len(g)))
            batches += divide(groups, batch_size // each, rng)
        return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]

    def batch(
        self, groups: Sequence[Sequence[int]], batch_size: int, mesh: Mesh | None = None
    ) -> dict[str, Any]:
        """A batch, or this process's own rows of it: {"text": see `collate`, ["image"]}.

        Args:
          groups: of `plan`.
          batch_size: rows of the whole batch.
          mesh: gives this process's own rows on it alone; None is the whole batch.

        Returns:
          The conversations' columns and, unless they are text alone, their pictures' inputs.
        """
        each, size = self.per_picture, batch_size // self.per_picture
        padded = [*groups, *([[]] * (size - len(groups)))]
        mine = padded if mesh is None else [padded[i] for i in own_rows(size, mesh)]
        one = groups[0][0]
        shape = self._shape([i for group in groups for i in group])
        flat = [
            self.rows[group[i]] if i < len(group) else None for group in mine for i in range(each)
        ]
        found: dict[str, Any] = {"text": collate(flat, *shape, self.first)}
        # Rows that fill a batch up are of its modality too, whatever they weigh.
        found["text"]["modality"][:] = self.rows[one].modality
        if self.pictures[one] >= 0:
            which = [self.pictures[group[0] if group else one] for group in mine]
            found["image"] = self.table.gather(np.asarray(which, np.int64))
        return found

    @functools.cached_property
    def _sizes(self) -> list[tuple[int, int]]:
        """Of each conversation, columns and answer tokens of its bucket."""
        return [
            (bucket(len(row.ids), LENGTHS), bucket(len(row.answers), _ANSWERS)) for row in self.rows
        ]

    def _shape(self, rows: Sequence[int]) -> tuple[int, int]:
        """Columns and answer tokens that hold some conversations."""
        return max(self._sizes[i][0] for i in rows), max(self._sizes[i][1] for i in rows)

    def visits(self, steps: int, batch_size: int, seed: int) -> Int[np.ndarray, " n"]:
        """How often each conversation is learned in so many steps of `batches`.

        Args:
          steps: batches that are drawn.
          batch_size: rows a batch.
          seed: as for `batches`.

        Returns:
          int64 [n].
        """
        epochs, rest = divmod(steps, self.steps_per_epoch(batch_size))
        found = np.full(len(self), epochs)
        for groups in self._epoch(batch_size, seed, epochs)[:rest]:
            found[[i for group in groups for i in group]] += 1
        return found

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches of `batch_size` rows in which every conversation stands once."""
        each, size = self.per_picture, batch_size // self.per_picture
        numbers, rows = np.unique(self.pictures, return_counts=True)
        groups = -(-rows // each)
        shown = numbers >= 0
        return sum(-(-int(groups[of].sum()) // size) for of in (shown, ~shown))

    def _epoch(self, batch_size: int, seed: int, epoch: int) -> list[list[list[int]]]:
        return self.plan(batch_size, np.random.default_rng((seed, epoch)))

    def batches(self, steps: int, batch_size: int, seed: int, mesh: Mesh | None = None) -> Batches:
        """A checkpointable iterator of batches for training, every epoch in another order.

        With a mesh they hold this process's own rows on it alone.
        """
        plan = functools.lru_cache(maxsize=2)(functools.partial(self._epoch, batch_size, seed))
        per_epoch = self.steps_per_epoch(batch_size)

        def make(step: int) -> dict[str, Any]:
            return self.batch(plan(step // per_epoch)[step % per_epoch], batch_size, mesh)

        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        return iter(grain.MapDataset.range(steps).map(make).to_iter_dataset(options))

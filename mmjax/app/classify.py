"""Pictures classified: by the classes that an adapter learned, or by a visitor's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from mmjax.app.limits import Limits
from mmjax.app.pictures import THUMBNAIL, encoded
from mmjax.encoders.pictures import ImageLike, open_image
from mmjax.errors import MmjaxError

Named = list[list[tuple[str, float]]]
SHOWN = 5  # classes of an answer
KEPT = 512  # pixels of the longer side of a shot: no encoder here reads more


@runtime_checkable
class Classifies(Protocol):
    """Names classes of pictures, with the adapter and without."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        ...

    def classify(self, images: Sequence[ImageLike], k: int = 1) -> Named:
        """For every picture (class, probability), best first."""
        ...

    def classify_base(self, images: Sequence[ImageLike], k: int = 1) -> Named:
        """The same by the frozen model, which knows the names alone."""
        ...


@runtime_checkable
class Teachable(Classifies, Protocol):
    """The same, and other classes; `mmjax.Classifier` is one."""

    def taught(
        self, classes: Sequence[str], shots: Sequence[Sequence[ImageLike]] = ()
    ) -> Classifies:
        """A classifier of other classes, by their names and a few pictures."""
        ...


@dataclass(frozen=True)
class Lesson:
    """The classes that a visitor teaches.

    Attributes:
      shots: name -> its pictures as JPEGs; none where the name must do.
      taught: what they made; None while they are not learned.
    """

    shots: tuple[tuple[str, tuple[bytes, ...]], ...] = ()
    taught: Classifies | None = None


@dataclass(frozen=True)
class ClassAnswer:
    """What a picture is said to show, (class, probability), best first.

    Attributes:
      thumbnail: of the picture, JPEG.
      adapted: by the adapter.
      frozen: by the frozen model.
    """

    thumbnail: bytes
    adapted: list[tuple[str, float]]
    frozen: list[tuple[str, float]]


class Classify:
    """Classifies with an adapter.

    Attributes:
      limits: of what a visitor may send.
    """

    def __init__(self, adapted: Teachable, limits: Limits) -> None:
        """Nothing is asked yet.

        Args:
          adapted: a trained few-shot classifier.
          limits: of what a visitor may send.
        """
        self._adapted, self.limits = adapted, limits

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the adapter learned."""
        return self._adapted.classes

    @property
    def about(self) -> str:
        """What the page does, in a sentence."""
        return "Names what a picture shows: one of the classes it learned, or of your own."

    def warm(self) -> None:
        """Asks once, so that no visitor waits until everything is compiled."""
        blank = Image.new("RGB", (32, 32), "white")
        self._adapted.classify([blank], SHOWN)
        self._adapted.classify_base([blank], SHOWN)

    def ask(self, upload: object, lesson: Lesson | None = None) -> ClassAnswer:
        """Classifies a picture.

        Args:
          upload: its path; or the bytes of a sample.
          lesson: the visitor's classes; None asks about those that the adapter learned.

        Returns:
          The answer.

        Raises:
          MmjaxError: no picture, or a lesson that is not learned.
        """
        if lesson is not None and lesson.taught is None:
            raise MmjaxError("Teach two classes or more first, and press Learn.")
        classifier = self._adapted if lesson is None else lesson.taught
        assert classifier is not None
        sample = open_image(upload) if isinstance(upload, bytes) else None
        image = sample or self.limits.open(self.limits.files(upload)[0])
        (adapted,) = classifier.classify([image], SHOWN)
        (frozen,) = classifier.classify_base([image], SHOWN)
        return ClassAnswer(encoded(image, THUMBNAIL), adapted, frozen)

    def add(self, lesson: Lesson, name: object, uploads: object) -> Lesson:
        """Adds a class, or pictures to one.

        Args:
          lesson: so far.
          name: of the class.
          uploads: paths of its pictures; None or none where the name must do.

        Returns:
          The lesson, which is to be learned anew.

        Raises:
          MmjaxError: no name, too many classes or pictures, or what are no pictures.
        """
        words = self.limits.text(name, "class name")
        paths: list[Path] = self.limits.files(uploads) if uploads else []
        shots = dict(lesson.shots)
        if words not in shots and len(shots) >= self.limits.classes:
            raise MmjaxError(f"At most {self.limits.classes} classes can be taught at once.")
        before = shots.get(words, ())
        if len(before) + len(paths) > self.limits.pictures:
            raise MmjaxError(f"At most {self.limits.pictures} pictures of a class are kept.")
        new = tuple(encoded(self.limits.open(path), KEPT, quality=95) for path in paths)
        return Lesson(tuple({**shots, words: (*before, *new)}.items()))

    def learn(self, lesson: Lesson) -> Lesson:
        """Learns the classes of a lesson.

        Raises:
          MmjaxError: fewer than two, or a name that the text encoder cannot read.
        """
        if len(lesson.shots) < 2:
            raise MmjaxError("Add two classes or more first.")
        names = [name for name, _ in lesson.shots]
        return Lesson(lesson.shots, self._adapted.taught(names, [list(s) for _, s in lesson.shots]))

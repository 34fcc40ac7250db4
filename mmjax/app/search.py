"""Pictures found by a text: by the adapter, and by the frozen model beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from PIL import Image

from mmjax.app.limits import Limits, visitors_name
from mmjax.app.pictures import THUMBNAIL, encoded, files_in, readable
from mmjax.encoders.pictures import ImageLike
from mmjax.errors import MmjaxError

Vectors = Float[np.ndarray, "n d"]
SHOWN = 8  # pictures found for a query


@runtime_checkable
class Embeds(Protocol):
    """What a search asks of an adapter; `mmjax.Adapted` is one."""

    @property
    def offers(self) -> frozenset[str]:
        """The functions that its task publishes."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of queries."""
        ...

    def embed_base_texts(self, texts: Sequence[str]) -> Vectors:
        """The same by the frozen model."""
        ...

    def embed_images(self, images: Sequence[ImageLike]) -> Vectors:
        """Unit vectors of pictures."""
        ...

    def embed_base_images(self, images: Sequence[ImageLike]) -> Vectors:
        """The same by the frozen model."""
        ...


@dataclass(frozen=True)
class PictureIndex:
    """Pictures that are searched.

    Attributes:
      names: of the files, as a visitor may read them.
      thumbnails: JPEGs.
      adapted: their embeddings by the adapter.
      frozen: by the frozen model; None where it shares no space with texts.
    """

    names: tuple[str, ...]
    thumbnails: tuple[bytes, ...]
    adapted: Vectors
    frozen: Vectors | None


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Attributes:
      name: of its file.
      thumbnail: JPEG.
      cosine: between the query and it.
    """

    name: str
    thumbnail: bytes
    cosine: float


@dataclass(frozen=True)
class Found:
    """What a query finds, best first; `frozen` is None where no frozen model can be asked."""

    adapted: tuple[Hit, ...]
    frozen: tuple[Hit, ...] | None


class Search:
    """Searches galleries with an adapter.

    Attributes:
      limits: of what a visitor may send.
      compares: whether the frozen model is asked too.
    """

    def __init__(self, adapted: Embeds, limits: Limits) -> None:
        """Nothing is embedded yet.

        Args:
          adapted: embeds texts and pictures into one space.
          limits: of what a visitor may send.

        Raises:
          MmjaxError: it does not.
        """
        lacking = {"embed_texts", "embed_images"} - adapted.offers
        if lacking:
            raise MmjaxError(
                f"a page searches pictures by text, but this adapter has no "
                f"{' and no '.join(sorted(lacking))}; it has {sorted(adapted.offers)}"
            )
        self._adapted, self.limits = adapted, limits
        self.compares = "embed_base_texts" in adapted.offers
        self._own_images = "embed_base_images" in adapted.offers

    @property
    def about(self) -> str:
        """What the page does, in a sentence."""
        beside = "; the frozen model's answer stands beside it" if self.compares else ""
        return f"Finds pictures by what you type{beside}."

    def warm(self) -> None:
        """Asks once, so that no visitor waits until everything is compiled."""
        blank = Image.new("RGB", (32, 32), "white")
        self.find("?", self._gallery(["?"], [b""], [blank]))

    def of_folder(self, folder: Path, most: int) -> PictureIndex:
        """A folder's pictures; those that cannot be read are left out and told.

        Args:
          folder: that is searched at any depth.
          most: pictures.

        Returns:
          The gallery; names are relative to the folder.

        Raises:
          MmjaxError: no folder, no picture, or too many.
        """
        good = list(readable(files_in(folder, most)))
        if not good:
            raise MmjaxError(f"none of the pictures in {folder} can be read")
        paths: list[ImageLike] = [path for path, _ in good]
        names = [path.relative_to(folder).as_posix() for path, _ in good]
        return self._gallery(names, [small for _, small in good], paths)

    def of_uploads(self, values: object) -> PictureIndex:
        """A visitor's own pictures.

        Args:
          values: paths of the uploads.

        Returns:
          The gallery.

        Raises:
          MmjaxError: too many or too large files, or what are no pictures.
        """
        paths = self.limits.files(values)
        opened = [self.limits.open(path) for path in paths]
        small = [encoded(image, THUMBNAIL) for image in opened]
        return self._gallery([visitors_name(path) for path in paths], small, opened)

    def _gallery(
        self, names: Sequence[str], small: Sequence[bytes], images: Sequence[ImageLike]
    ) -> PictureIndex:
        adapted = self._adapted.embed_images(images)
        frozen = None
        if self.compares:
            frozen = self._adapted.embed_base_images(images) if self._own_images else adapted
        return PictureIndex(tuple(names), tuple(small), adapted, frozen)

    def find(self, query: object, gallery: PictureIndex | None, k: int = SHOWN) -> Found:
        """The pictures that fit a query best.

        Args:
          query: a visitor's words.
          gallery: that is searched.
          k: how many.

        Returns:
          What the adapter and the frozen model find.

        Raises:
          MmjaxError: no words, too many of them, or nothing to search.
        """
        words = self.limits.text(query, "query")
        if gallery is None:
            raise MmjaxError("Choose some pictures to search first.")
        hits = _best(self._adapted.embed_texts([words])[0], gallery.adapted, gallery, k)
        if gallery.frozen is None:
            return Found(hits, None)
        base_query = self._adapted.embed_base_texts([words])[0]
        return Found(hits, _best(base_query, gallery.frozen, gallery, k))


def _best(
    query: Float[np.ndarray, " d"], images: Vectors, gallery: PictureIndex, k: int
) -> tuple[Hit, ...]:
    cosines = images @ query
    order = np.argsort(-cosines, kind="stable")[:k]
    return tuple(Hit(gallery.names[i], gallery.thumbnails[i], float(cosines[i])) for i in order)

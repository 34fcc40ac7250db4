"""Using a trained dual encoder or projection: embed, search."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from PIL.Image import Image

from mmjax.checks import arguments
from mmjax.checks.arguments import several, whole
from mmjax.data.tables import FeatureTable, View, table_of
from mmjax.data.transforms import view
from mmjax.encoders.layers import Hook, WeightHook
from mmjax.encoders.output import ADAPTERS
from mmjax.encoders.pictures import ImageLike, open_image
from mmjax.errors import MmjaxError
from mmjax.evals.base import Functions
from mmjax.tasks.adapting import adapter_in
from mmjax.tasks.dual_encoder.stacking import Loaded


@dataclasses.dataclass(frozen=True)
class Shown(Sequence[Image]):
    """Pictures in one view or several, each opened when its turn comes.

    Attributes:
      images: paths, bytes, PIL pictures or uint8 arrays.
      views: what each is shown in, one after the other.
    """

    images: Sequence[ImageLike]
    views: Sequence[str] = ("plain",)

    def __len__(self) -> int:
        return len(self.images) * len(self.views)

    def __getitem__(self, i: Any, /) -> Any:
        picture, name = divmod(range(len(self))[int(i)], len(self.views))
        return view(self.views[name], open_image(self.images[picture], picture))


class Adapted:
    """A trained adapter with the frozen encoders below it.

    Attributes:
      card: everything that is known of it.
    """

    def __init__(self, loaded: Loaded, functions: Functions) -> None:
        """Puts together what was loaded; see `mmjax.load_adapter`.

        Args:
          loaded: the adapter with all that it stands on.
          functions: what its task publishes, bound to its parameters.
        """
        self.card, self._stage = loaded.card, loaded.stage
        self._folder, self._library, self._functions = loaded.folder, loaded.library, functions
        self._specs = self._stage.encoders
        self._adapters = loaded.trainable.get(ADAPTERS, {})
        self._views = self._stage.pairs.views
        self._text_role = self._stage.text_role

    def __repr__(self) -> str:
        """What it is: the task, the recipe, the encoders."""
        encoders = ", ".join(f"{role}={spec.source!r}" for role, spec in self._specs.items())
        count = self.card["trainable"]["count"]
        return (
            f"{type(self).__name__}({self._stage.task!r} of {self.card['recipe']!r}, {encoders}, "
            f"{count:,} trained parameters)"
        )

    @property
    def offers(self) -> frozenset[str]:
        """The functions that its task publishes: `embed_texts`, `embed_images`, `score`, ..."""
        return frozenset(self._functions)

    def _embed(self, role: str, function: str, items: Sequence[Any]) -> Float[np.ndarray, "n d"]:
        if function not in self._functions:
            raise MmjaxError(
                f"this adapter has no {function}; it has {sorted(self._functions)}"
                + (" (see `embed_joined`)" if "embed_joined" in self._functions else "")
            )
        table, views = self._features(role, items), len(self._views) if role == "image" else 1
        rows = np.arange(len(items))
        # Several views are averaged to a unit vector; one alone stays as the task made it.
        return self._functions[function](
            View(table, rows.reshape(-1, views) if views > 1 else rows)
        )

    def _features(self, role: str, items: Sequence[Any]) -> FeatureTable:
        if not len(several(items, "items")):
            raise MmjaxError("expected at least one item to embed")
        return table_of(list(self._outputs(role, items, self._specs[role].output)))

    def _outputs(self, role: str, items: Sequence[Any], want: str) -> Iterator[np.ndarray]:
        """What an encoder says of items, with its adapter where it has one."""
        encoder, own = self._library.encoder(self._specs[role]), self._adapters.get(role)
        if own is not None:
            encoder = encoder.with_hook(self._hook(role))
        return encoder.outputs(items, want, adapters=own)

    def _hook(self, role: str) -> Hook | WeightHook | None:
        """What stands in an encoder."""
        return adapter_in(self._stage, role)

    def embed_joined(
        self, images: Sequence[ImageLike] = (), texts: Sequence[str] = ()
    ) -> Float[np.ndarray, "n d"]:
        """Pictures and texts of the same items through one projector that reads both -> f32.

        For a `projection` with `mode="single"`; one without an encoder takes no such items.
        """
        if "embed_joined" not in self._functions:
            raise MmjaxError(f"this adapter has no embed_joined; it has {sorted(self._functions)}")
        inputs: dict[str, Sequence[Any]] = {
            "image": Shown(arguments.pictures(images)),
            "text": arguments.texts(texts),
        }
        if len({len(inputs[role]) for role in self._specs}) != 1:
            raise MmjaxError(
                f"got {len(images)} images and {len(texts)} texts; expected as many of each that "
                f"the adapter reads ({sorted(self._specs)})"
            )
        parts = [self._features(role, inputs[role]).values for role in self._specs]
        joined: np.ndarray = np.concatenate(parts, axis=1)
        table = table_of(list(joined))
        return self._functions["embed_joined"](View(table, np.arange(len(table))))

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Texts of the adapted language -> f32 unit vectors of the joint space."""
        return self._embed(self._text_role, "embed_texts", arguments.texts(texts, "items"))

    def embed_base_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Texts of the base's own language -> f32 unit vectors of the joint space."""
        name = "embed_base_texts" if "embed_base_texts" in self._functions else "embed_texts"
        # A base that publishes pictures of its own reads its texts as what stands on it does.
        role = self._text_role if "embed_base_images" in self._functions else "text"
        return self._embed(role, name, arguments.texts(texts, "items"))

    def embed_base_images(self, images: Sequence[ImageLike]) -> Float[np.ndarray, "n d"]:
        """Pictures as the base embeds them -> f32 unit vectors of the joint space."""
        name = "embed_base_images" if "embed_base_images" in self._functions else "embed_images"
        return self._embed("image", name, Shown(arguments.pictures(images), self._views))

    def embed_images(self, images: Sequence[ImageLike]) -> Float[np.ndarray, "n d"]:
        """Pictures (paths, bytes, PIL, uint8 arrays) -> f32 unit vectors of the joint space."""
        return self._embed("image", "embed_images", Shown(arguments.pictures(images), self._views))

    def classify(self, images: Sequence[ImageLike], k: int = 1) -> list[list[tuple[str, float]]]:
        """Names the likeliest classes of pictures: for what the `prompts` task trained.

        Raises:
          MmjaxError: this adapter knows no classes.
        """
        raise MmjaxError(
            f"a {self._stage.task!r} adapter knows no classes; classify needs one that the "
            "prompts task trained"
        )

    def search(
        self,
        texts: Sequence[str],
        images: Sequence[ImageLike] | Float[np.ndarray, "n d"],
        k: int = 5,
    ) -> list[list[tuple[int, float]]]:
        """Finds the pictures that fit each text best.

        Args:
          texts: queries in the adapted language.
          images: pictures, or what `embed_images` returned for them.
          k: how many to return.

        Returns:
          For every text (index of the picture, cosine), best first.

        Raises:
          MmjaxError: one text or picture instead of a list, or a gallery of another width.
        """
        whole("k", k, 1)
        arguments.texts(texts, "items")
        if isinstance(images, np.ndarray | jax.Array) and images.ndim == 2:
            queries, gallery = self.embed_texts(texts), np.asarray(images)
            if gallery.shape[1] != queries.shape[1] or gallery.dtype.kind not in "fV":
                raise MmjaxError(
                    f"the gallery is {gallery.dtype} {list(gallery.shape)}; expected pictures, or "
                    f"what embed_images returned for them: floats [n, {queries.shape[1]}]"
                )
            if not np.isfinite(gallery.astype(np.float32)).all():
                raise MmjaxError("the gallery holds NaN or infinity; embed its pictures again")
        else:
            gallery = self.embed_images(list(arguments.pictures(images)))
            queries = self.embed_texts(texts)
        scores = queries @ gallery.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [
            [(int(i), float(row[i])) for i in top] for row, top in zip(scores, best, strict=True)
        ]

"""The named fixed views of a picture that augmentation draws from."""

from collections.abc import Callable, Mapping

from PIL import Image, ImageOps

from mmjax.errors import MmjaxError

WHITE = (255, 255, 255)


def _turned(degrees: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=WHITE)


def _scaled(factor: float, shift: tuple[float, float] = (0.0, 0.0)) -> Callable[..., Image.Image]:
    """Draws the picture smaller or larger about its centre, moved by shares of its size."""

    def apply(image: Image.Image) -> Image.Image:
        width, height = image.size
        dx, dy = (1 - 1 / factor) / 2 - shift[0], (1 - 1 / factor) / 2 - shift[1]
        matrix = (1 / factor, 0, dx * width, 0, 1 / factor, dy * height)
        return image.transform(
            image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=WHITE
        )

    return apply


VIEWS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "plain": lambda image: image,
    "mirror": ImageOps.mirror,
    "left": _turned(12),
    "right": _turned(-12),
    "small": _scaled(0.8),
    "large": _scaled(1.15),
    "up": _scaled(0.9, (-0.06, -0.06)),
    "down": _scaled(0.9, (0.06, 0.06)),
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
}


def view(name: str, image: Image.Image) -> Image.Image:
    """One named variation of a picture.

    Raises:
      MmjaxError: no such view.
    """
    if name not in VIEWS:
        raise MmjaxError(f"config.pairs.views names {name!r}; expected one of {sorted(VIEWS)}")
    return VIEWS[name](image)

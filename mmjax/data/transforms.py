"""The named fixed views of a picture that augmentation draws from."""

from collections.abc import Callable, Mapping

from PIL import Image, ImageOps

from mmjax.errors import MmjaxError, setting

WHITE = (255, 255, 255)
PLAIN = "plain"  # the view that is the picture itself


def _placed(
    degrees: float = 0.0, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)
) -> Callable[[Image.Image], Image.Image]:
    """Turns the picture, then draws it smaller or larger about its centre, moved on white.

    Args:
      degrees: counter-clockwise.
      scale: of both sides.
      shift: to the right and down, in shares of width and height.
    """

    def apply(image: Image.Image) -> Image.Image:
        width, height = image.size
        turned = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=WHITE)
        left, up = (0.5 - (0.5 + s) / scale for s in shift)
        matrix = (1 / scale, 0, left * width, 0, 1 / scale, up * height)
        return turned.transform(
            image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=WHITE
        )

    return apply


VIEWS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    PLAIN: lambda image: image,
    "mirror": ImageOps.mirror,
    "tilt": _placed(12, 0.9),
    "mirror_tilt": lambda image: _placed(12, 0.8, (0.04, -0.04))(ImageOps.mirror(image)),
    "small": _placed(-8, 0.7, (-0.08, 0.04)),
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
}


def view(name: str, image: Image.Image) -> Image.Image:
    """One named variation of a picture.

    Raises:
      MmjaxError: no such view.
    """
    check_view(name)
    return VIEWS[name](image)


def check_view(name: str) -> None:
    """Refuses a name that no view has.

    Raises:
      MmjaxError: no such view.
    """
    if name not in VIEWS:
        raise MmjaxError(
            f"{setting('pairs.views')} names {name!r}; expected one of {sorted(VIEWS)}"
        )

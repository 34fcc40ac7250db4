"""How many pictures a second come from JPEG bytes to the array that an encoder reads?"""

import io
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from benchmarks.harness import Grid, Options, Report
from mmjax.encoders.image_preprocess import ImagePreprocess

PREPROCESS = ImagePreprocess(256, 224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SHAPE = (375, 500, 3)


def run(options: Options) -> Report:
    """Decodes, resizes, crops and normalizes, on one thread and on all cores.

    Args:
      options: the first of `batches` replaces 64 pictures (256 where `full`).

    Returns:
      Pictures a second, the median over rounds.
    """
    (count, *_) = options.sizes((64,), (256,))
    pictures = [_jpeg(i) for i in range(count)]
    cores = os.cpu_count() or 1
    rows, samples = [], {}
    for threads in sorted({1, cores}):
        seconds = []
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(options.num_rounds):
                began = time.perf_counter()
                for _ in pool.map(lambda picture: PREPROCESS([picture]), pictures):
                    pass
                seconds.append(time.perf_counter() - began)
        rows.append((str(threads), f"{count / statistics.median(seconds):,.0f}"))
        samples[f"{threads} threads"] = {"seconds": seconds, "pictures": count}
    title = f"JPEG {SHAPE[1]} x {SHAPE[0]} to 224 x 224, {count} pictures"
    return Report([Grid(title, ("threads", "pictures/s"), tuple(rows))], samples)


def _jpeg(seed: int) -> bytes:
    """A picture with the detail of a photograph: noise, smoothed by enlarging."""
    noise = np.random.default_rng(seed).integers(0, 256, (75, 100, 3), np.uint8)
    encoded = io.BytesIO()
    size = SHAPE[1], SHAPE[0]
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()

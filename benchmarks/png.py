"""The service's PNG writer compared with Pillow's, on one picture and on a grid (docs/decisions/0004).

python -m benchmarks.png
"""

import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.report import write_record
from service.images import Pixels, encode_png

ROUNDS = 300


def main() -> None:
    """Measure alternately; report the minimum of each in microseconds."""
    grid = np.asarray(Image.open("weights/quick-gan/samples.png").convert("L"))[:, :, None].copy()
    results = {}
    for name, image in (("28 x 28", grid[2:30, 2:30].copy()), ("grid of 80", grid)):
        ours, pillow = _least_us(image, encode_png, _pillow)
        results[name] = {"ours_us": ours, "pillow_us": pillow, "ratio": pillow / ours}
        print(f"{name:10} ours {ours:7.1f} us   Pillow {pillow:7.1f} us   {pillow / ours:.1f} x")
    write_record("png", results=results)


def _least_us(image: Pixels, *encoders: Callable[[Pixels], bytes]) -> list[float]:
    least = [float("inf")] * len(encoders)
    for _ in range(ROUNDS):
        for index, encode in enumerate(encoders):
            started = time.perf_counter()
            encode(image)
            least[index] = min(least[index], 1e6 * (time.perf_counter() - started))
    return least


def _pillow(image: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(file, format="PNG", compress_level=1)
    return file.getvalue()


if __name__ == "__main__":
    main()

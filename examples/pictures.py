"""Generate one picture of each class with a running service: python examples/pictures.py ddpm pictures/"""

import sys
from pathlib import Path

from service.client import Client, GenserveError


def main(model: str, folder: Path) -> None:
    """Write <folder>/<class>.png, enlarged four times."""
    with Client() as service:
        classes = service.model(model).class_names
        result = service.generate(model, seeds=[7] * len(classes), class_label=classes, scale=4)
    for name, image in zip(classes, result.images, strict=True):
        print(image.save(folder / f"{name.replace('/', '-').replace(' ', '-')}.png"))
    print(f"{result.timings.compute_ms:.1f} ms of computation")


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except GenserveError as failure:
        sys.exit(f"error: {failure}")

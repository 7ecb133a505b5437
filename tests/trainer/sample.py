"""The real pictures in tests/data."""

import gzip
from pathlib import Path

SAMPLE = Path(__file__).parents[1] / "data" / "fashion-mnist"


def first_of_sample(folder: Path, train: int, test: int) -> Path:
    """``folder`` with Fashion-MNIST's four idx files, of the first ``train`` and ``test`` pictures of the sample."""
    folder.mkdir(parents=True, exist_ok=True)
    for packed in SAMPLE.glob("*.gz"):
        header, item = (16, 28 * 28) if "images" in packed.name else (8, 1)
        count = train if packed.name.startswith("train") else test
        whole = gzip.decompress(packed.read_bytes())
        (folder / packed.stem).write_bytes(whole[:4] + count.to_bytes(4, "big") + whole[8 : header + count * item])
    return folder

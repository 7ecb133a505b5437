"""Ask a running service for pictures of every class and save them as one file each; only the standard library.

make serve &
python examples/pictures.py ddpm pictures/
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

SERVICE = "http://127.0.0.1:8000"


def call(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON that ``path`` answers; a body makes it a POST."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(SERVICE + path, data=data, headers={"Accept": "application/json"})) as answer:
        decoded: dict[str, Any] = json.load(answer)
        return decoded


def main(model: str, folder: Path) -> None:
    """One picture of each class of ``model``, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for class_name in call(f"/models/{model}")["class_names"]:
        answer = call(f"/generate/{model}", {"seed": 7, "class_label": class_name, "scale": 4})
        path = folder / f"{class_name.replace(' ', '-')}.png"
        path.write_bytes(base64.b64decode(answer["images"][0]["b64_json"]))
        print(f"{path}: {answer['timings']['compute_ms']:.1f} ms of computing")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

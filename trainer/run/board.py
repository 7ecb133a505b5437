"""TensorBoard event files, written by the training thread.

``torch.utils.tensorboard`` writes in a background thread: on a full disk that thread prints a traceback, and the run
fails only at a later event.
"""

import io
import os
import socket
import time
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor


class Board:
    """One event file in ``folder``. TensorBoard ignores events of earlier files from step ``purge_from`` on.

    Every method raises OSError when the file cannot be written.
    """

    def __init__(self, folder: Path, purge_from: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        if purge_from is not None:
            self._write(Event(step=purge_from, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Add a point of a curve."""
        self._add(Summary.Value(tag=tag, simple_value=value), step)

    def image(self, tag: str, picture: Tensor, step: int) -> None:
        """Add an image, (channel, height, width) uint8 with one or three channels."""
        channels, height, width = picture.shape
        file = io.BytesIO()
        array = picture.permute(1, 2, 0).cpu().numpy()
        Image.fromarray(array[:, :, 0] if channels == 1 else array).save(file, "PNG")
        shown = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=file.getvalue())
        self._add(Summary.Value(tag=tag, image=shown), step)

    def flush(self) -> None:
        """Pass the events added so far to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Write the remaining events and close the file."""
        self._file.close()

    def _add(self, value: Summary.Value, step: int) -> None:
        self._write(Event(step=step, summary=Summary(value=[value])))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

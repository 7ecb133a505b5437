"""The process that counts the devices for engines, and ends."""

from multiprocessing.connection import Connection

import torch

from service.models.precision import check_precision
from service.models.registry import pick_device
from service.processes.control import Devices, send
from service.settings import Settings


def run(connection: Connection, settings: Settings) -> None:
    """Tell the supervisor how many engines the machine has devices for."""
    try:
        device = pick_device(settings.device)
        check_precision(settings.precision, device)
    except ValueError as failure:
        send(connection, Devices(0, problem=str(failure)))
        return
    gpu = device.type == "cuda"
    send(connection, Devices(torch.cuda.device_count() if gpu else 1, gpu))

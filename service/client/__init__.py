"""A Python client of the service: ``Client``, and ``AsyncClient`` with the same methods as coroutines."""

from service.client.aio import AsyncClient, AsyncJob
from service.client.blocking import Client, Job
from service.client.errors import FieldProblem, GenserveError, Refused, UnexpectedAnswer, Unreachable, Unsendable
from service.client.events import Completed, Event, ImageReady, PreviewReady, Queued, Started
from service.client.exchange import Retries
from service.client.fields import GenerateFields, PathFields, Point
from service.client.results import Code, File, Generation, Health, Image, Inspection, JobStatus, Model, Timings

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Code",
    "Completed",
    "Event",
    "FieldProblem",
    "File",
    "GenerateFields",
    "Generation",
    "GenserveError",
    "Health",
    "Image",
    "ImageReady",
    "Inspection",
    "Job",
    "JobStatus",
    "Model",
    "PathFields",
    "Point",
    "PreviewReady",
    "Queued",
    "Refused",
    "Retries",
    "Started",
    "Timings",
    "UnexpectedAnswer",
    "Unreachable",
    "Unsendable",
]

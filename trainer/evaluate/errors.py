"""The error of all evaluations."""


class EvaluationError(Exception):
    """Model, evaluator and reference images do not match, or a file is unusable; the message says why."""

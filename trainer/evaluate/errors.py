"""What can be wrong with a measurement."""


class EvaluationError(Exception):
    """The model, the evaluator and the reference pictures do not belong together; the message says how."""

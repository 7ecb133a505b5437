class ExportError(Exception):
    """The run cannot become an artefact; the message says why. Nothing of the model in use was touched."""

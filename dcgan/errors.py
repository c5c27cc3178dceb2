"""The failures a caller may want to catch. Each message says what happened, what was expected, and what to do."""


class ProjectError(Exception):
    """Base of this project's own errors; the tools print its message as one line and exit with 1."""


class DataError(ProjectError):
    """Images, an archive or a packed file cannot be used."""


class CheckpointError(ProjectError):
    """A checkpoint or a `generator.params` is missing, damaged, unsafe, or of another architecture."""


class TrainingError(ProjectError):
    """Training stopped by itself: a loss or a gradient is not finite, or the generator has collapsed."""


class CollapseError(TrainingError):
    """The generator gives nearly the same image for every seed."""


class ExportError(ProjectError):
    """A model could not be exported; what was exported before is untouched."""


class ParityError(ExportError):
    """An exported model does not compute what the trained one computes."""


class EvaluationError(ProjectError):
    """Images cannot be measured, or two figures not compared: what is said of them would not be true."""

"""Every error that graphsurgery raises on purpose.

The tree (each error is also the natural builtin named in brackets):

    GraphSurgeryError [Exception]
    ├── ModelError [ValueError]                the file itself is wrong
    │   ├── MalformedModelError                not a protobuf, truncated, nested too deep, no graph
    │   ├── TensorDataError                    a tensor's bytes disagree with its dims or its dtype
    │   ├── ExternalDataError                  external data that is there but wrong
    │   │   ├── UnsafeLocationError            a location that leaves the model's folder
    │   │   └── MissingDataError               external data that is absent, where the bytes are needed
    │   └── SourceChangedError                 a file changed between loading and saving
    ├── RequestError [ValueError]              the request does not fit this model
    │   ├── NameNotFoundError                  a value, input or output name that the graph does not have
    │   ├── NothingToPoolError                 no hidden state was found, or more than one
    │   ├── MaskError                          no usable attention mask
    │   ├── LayoutError                        the encoder takes or gives the sequence before the batch
    │   ├── AlreadyAppliedError                the file already has a head, or this very edit
    │   ├── NoHeadError                        nothing that strip-head could take off
    │   ├── NothingToOptimizeError             the optimizer would change nothing
    │   ├── UnsupportedModelError              an opset, dtype or structure outside what an edit supports
    │   ├── RecipeError                        a recipe file that is none, or names what there is not
    │   └── OutputExistsError [FileExistsError]
    ├── WeightsDifferError [ValueError]        a file has not the weights that it records for an edit
    ├── FolderError [ValueError]               a model folder, or a config in it, is wrong or not known
    │   └── WeightsError                       a weights file is wrong, or lacks what is needed
    ├── SurroundingsError [OSError]            no space, no permission, a file that is not there
    ├── MissingPackageError [ImportError]      an optional package is needed
    └── VerificationFailed [AssertionError]    `run` was asked to prove its work and could not

Beside the tree, so that nothing that deals with known errors takes it for one:

    PostconditionError [AssertionError]        an edit did not do what it promises: a bug in graphsurgery

A message says what was found and what is needed; ``advice`` says how to get there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class GraphSurgeryError(Exception):
    """Base of all errors raised on purpose. ``str(error)`` is the message, ``error.advice`` the way out."""

    def __init__(self, message: str, advice: str = "", options: tuple[str, ...] = ()) -> None:
        """``options`` are the options of the command line that ``advice`` names: another program may call them otherwise."""
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.options = options
        self.edit: object | None = None
        """The edit that could not be applied, if one raised the error."""

    def __str__(self) -> str:
        return self.message


class ModelError(GraphSurgeryError, ValueError):
    """The model file itself is wrong."""


class MalformedModelError(ModelError):
    """The bytes are not a readable ONNX protobuf."""


class TensorDataError(ModelError):
    """A tensor's bytes disagree with its dims or its dtype."""


class ExternalDataError(ModelError):
    """External data that is there but wrong: short, over-long, overlapping, with unknown keys."""


class UnsafeLocationError(ExternalDataError):
    """An external data location that leaves the model's folder or names something that is not a plain file."""


class MissingDataError(ExternalDataError):
    """External data that is absent, raised by whatever needs its bytes."""


class SourceChangedError(ModelError):
    """A file that a loaded model refers to was changed since it was loaded."""


class RequestError(GraphSurgeryError, ValueError):
    """The request does not fit this model."""


class NameNotFoundError(RequestError):
    """A value, input or output name that the graph does not have."""


class NothingToPoolError(RequestError):
    """No hidden state was found, or more than one candidate."""


class MaskError(RequestError):
    """No usable attention mask was found."""


class LayoutError(RequestError):
    """The encoder takes ``[seq, batch]`` or gives ``[seq, batch, hidden]``."""


class AlreadyAppliedError(RequestError):
    """The file already has a head, or the edit was already applied to it."""


AlreadyPooledError = AlreadyAppliedError
"""The old name of `AlreadyAppliedError`."""


class NoHeadError(RequestError):
    """The file carries nothing that strip-head could take off."""


class UnsupportedModelError(RequestError):
    """An opset, dtype or graph structure outside what the edit supports."""


class NothingToOptimizeError(RequestError):
    """The optimizer would change nothing."""


class RecipeError(RequestError):
    """A recipe file that cannot be read as one, or that names a key or an edit that there is not."""


class OutputExistsError(RequestError, FileExistsError):
    """The output exists already, or is one of the input's own files."""


class WeightsDifferError(GraphSurgeryError, ValueError):
    """A file has not the weights that it records for one of its edits."""


class FolderError(GraphSurgeryError, ValueError):
    """A model folder, or a config in it, is wrong, incomplete or of a kind that is not known."""


class WeightsError(FolderError):
    """A weights file is wrong, holds what may not be run, or lacks the tensors that are needed."""


class SurroundingsError(GraphSurgeryError, OSError):
    """No space, no permission, a file or folder that is not there."""


class MissingPackageError(GraphSurgeryError, ImportError):
    """An optional package is needed for what was asked."""


class VerificationFailed(GraphSurgeryError, AssertionError):  # noqa: N818 -- it names an outcome
    """`run` was asked to prove its work and the verdict was not PASSED; ``outcome`` holds the report."""

    def __init__(self, message: str, advice: str = "", outcome: object = None) -> None:
        super().__init__(message, advice)
        self.outcome = outcome


class PostconditionError(AssertionError):
    """An edit did not do what it promises, or was not resolved: a bug in graphsurgery. Nothing was written.

    The message says what was promised and what was found. The command line treats it as a bug: traceback and exit code 3.
    """


def require_value(value: T | None, what: str) -> T:
    """Return ``value``. Raise PostconditionError if it is None although an earlier step had to find it."""
    if value is None:
        raise PostconditionError(f"{what} should be known by now, and is None")
    return value


def require_promised(verb: str, what: str, promised: Sequence[object], found: Sequence[object]) -> None:
    """Raise PostconditionError unless what was ``found`` after an edit is what ``verb`` promised; ``what`` names both."""
    if tuple(found) != tuple(promised):
        raise PostconditionError(
            f"{verb} promised {what}: {_join_values(promised)}; the edited model has: {_join_values(found)}"
        )


def _join_values(values: Sequence[object]) -> str:
    return "; ".join(map(str, values)) or "none"

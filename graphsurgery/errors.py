"""Every error that graphsurgery raises on purpose, and the contracts of its own code.

The tree (each error is also the natural builtin named in brackets):

    GraphSurgeryError [Exception]
    ├── ModelError [ValueError]                the file is wrong
    │   ├── MalformedModelError                not a protobuf, truncated, nested too deep, no graph
    │   ├── TensorDataError                    a tensor's bytes disagree with its dims or its dtype
    │   ├── ExternalDataError                  external data exists but is wrong
    │   │   ├── UnsafeLocationError            a location outside the model's folder
    │   │   └── MissingDataError               external data is missing and its bytes are needed
    │   └── SourceChangedError                 a file changed between loading and saving
    ├── RequestError [ValueError]              the request does not fit this model
    │   ├── WrongTypeError [TypeError]         an argument of a library function has the wrong type
    │   ├── NameNotFoundError                  the graph has no value, input or output of a name
    │   ├── NothingToPoolError                 no hidden state was found, or more than one
    │   ├── MaskError                          no usable attention mask
    │   ├── LayoutError                        the encoder has the sequence before the batch
    │   ├── AlreadyAppliedError                the file already has a head, or this edit
    │   ├── NoHeadError                        strip-head has nothing to take off
    │   ├── NothingToOptimizeError             the optimizer would change nothing
    │   ├── NothingToFixError                  no known fault of an export can be mended
    │   ├── UnsupportedModelError              an opset, dtype or structure outside what an edit supports
    │   ├── RecipeError                        a recipe file is malformed, or has an unknown name
    │   └── OutputExistsError [FileExistsError]
    ├── WeightsDifferError [ValueError]        weights differ from those recorded for an edit
    ├── FolderError [ValueError]               a model folder, or a config in it, is wrong or unknown
    │   └── WeightsError                       a weights file is wrong, or lacks tensors
    ├── SurroundingsError [OSError]            no space, no permission, a file does not exist
    ├── MissingPackageError [ImportError]      an optional package is needed
    └── VerificationFailed [AssertionError]    a proof did not pass
        └── StrictError                        there are warnings, and ``strict`` allows none

Outside the tree, so that code that handles known errors does not handle it:

    PostconditionError [AssertionError]        an edit broke its promise: a bug in graphsurgery

A message says what was found and what is needed. ``advice`` says how to get there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
ADVICE = "what to do: "
"""How the line of advice below a message begins."""


class GraphSurgeryError(Exception):
    """Base of all errors raised on purpose. ``str(error)`` is the message, ``error.advice`` says what to do."""

    def __init__(self, message: str, advice: str = "", options: tuple[str, ...] = ()) -> None:
        """``options`` are the command line's options in ``advice``, because another program may name them differently."""
        super().__init__(message)
        self.message = message
        self._advice = ""
        self.advice = advice
        self.options = options
        self.edit: object | None = None
        """The edit that could not be applied, if an edit raised the error."""

    def __str__(self) -> str:
        return self.message

    @property
    def advice(self) -> str:
        """What to do. It is a note of the exception as well, so that a traceback ends with it."""
        return self._advice

    @advice.setter
    def advice(self, advice: str) -> None:
        notes: list[str] = self.__dict__.setdefault("__notes__", [])
        notes[:] = [one for one in notes if one != f"{ADVICE}{self._advice}"]
        self._advice = advice
        if advice:
            self.add_note(f"{ADVICE}{advice}")


class ModelError(GraphSurgeryError, ValueError):
    """The model file itself is wrong."""


class MalformedModelError(ModelError):
    """The bytes are not a readable ONNX protobuf."""


class TensorDataError(ModelError):
    """A tensor's bytes disagree with its dims or its dtype."""


class ExternalDataError(ModelError):
    """External data exists but is wrong: too short, too long, overlapping, or with unknown keys."""


class UnsafeLocationError(ExternalDataError):
    """An external data location is outside the model's folder, or is not a plain file."""


class MissingDataError(ExternalDataError):
    """External data is missing, and its bytes are needed."""


class SourceChangedError(ModelError):
    """A file of a loaded model has changed since it was loaded."""


class RequestError(GraphSurgeryError, ValueError):
    """The request does not fit this model."""


class WrongTypeError(RequestError, TypeError):
    """An argument of a library function has the wrong type."""


class NameNotFoundError(RequestError):
    """The graph has no value, input or output of this name."""


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
    """The file records nothing that strip-head could take off."""


class UnsupportedModelError(RequestError):
    """An opset, dtype or graph structure outside what the edit supports."""


class NothingToOptimizeError(RequestError):
    """The optimizer would change nothing."""


class NothingToFixError(RequestError):
    """No known fault of an export can be mended. ``outcome`` holds the faults that were found all the same."""

    def __init__(self, message: str, advice: str = "", outcome: object = None) -> None:
        super().__init__(message, advice)
        self.outcome = outcome


class RecipeError(RequestError):
    """A recipe file is malformed, or has an unknown key, edit or rewrite."""


class OutputExistsError(RequestError, FileExistsError):
    """The output exists already, or is one of the input's own files."""


class WeightsDifferError(GraphSurgeryError, ValueError):
    """Weights differ from those that a file records for one of its edits."""


class FolderError(GraphSurgeryError, ValueError):
    """A model folder, or a config in it, is wrong, incomplete or of an unknown kind."""


class WeightsError(FolderError):
    """A weights file is wrong, contains code that must not run, or lacks tensors."""


class SurroundingsError(GraphSurgeryError, OSError):
    """No space, no permission, or a file or folder that does not exist."""


class MissingPackageError(GraphSurgeryError, ImportError):
    """The request needs an optional package."""


class VerificationFailed(GraphSurgeryError, AssertionError):  # noqa: N818 -- it names an outcome
    """The verdict of a proof is not PASSED. ``outcome`` holds the report."""

    def __init__(self, message: str, advice: str = "", outcome: object = None) -> None:
        super().__init__(message, advice)
        self.outcome = outcome


class StrictError(VerificationFailed):
    """There are warnings, and ``strict`` allows none."""


class PostconditionError(AssertionError):
    """An edit did not keep its promise, or was not resolved: a bug in graphsurgery. Nothing was written.

    The message says what was promised and what was found. The command line treats it as a bug: traceback and exit code 3.
    """


def require_value(value: T | None, what: str) -> T:
    """Return ``value``. Raises PostconditionError if it is None although an earlier step had to find it."""
    if value is None:
        raise PostconditionError(f"{what} should be known by now, and is None")
    return value


def require_promised(verb: str, what: str, promised: Sequence[object], found: Sequence[object]) -> None:
    """Raise PostconditionError unless the edited model has what ``verb`` ``promised``. ``what`` names it in the message."""
    if tuple(found) != tuple(promised):
        raise PostconditionError(
            f"{verb} promised {what}: {_join_values(promised)}; the edited model has: {_join_values(found)}"
        )


def _join_values(values: Sequence[object]) -> str:
    return "; ".join(map(str, values)) or "none"

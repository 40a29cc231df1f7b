"""What an edit is: a frozen dataclass whose fields are its parameters, and the one way in which every edit is applied.

``resolve`` (the precondition: what was found, what is needed, how to get there) -> ``change`` -> ``ensure`` (the
postcondition). The constructor, the command line's options, the library function, the recipe's keys and the documentation all
come from these fields. The edit's verb, file name and summary come from `edit_list`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, ClassVar, Self

from graphsurgery.contracts import require_promised
from graphsurgery.edit_list import BY_CLASS
from graphsurgery.encoder.head import head_steps
from graphsurgery.errors import AlreadyPooledError, UnsupportedModelError
from graphsurgery.interface import Interface
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import recorded
from graphsurgery.model.records import Document

OLDEST_OPSET = 11


PATH = "PATH"
"""The metavar of a parameter that names a file or a folder."""


def parameter(
    help: str,
    default: Any,
    metavar: str = "",
    *,
    otherwise: str = "",
    takes: Any = None,
    called: str | None = None,
    required: bool = False,
    positional: bool = False,
) -> Any:
    """Declare a parameter of an edit. `edits.parameters` reads the declaration.

    Args:
        help: the sentences that the command line and the documentation show.
        metavar: the form of the value on the command line; `PATH` for a file or a folder.
        otherwise: what the edit uses if the parameter is left out, when the default does not say it.
        takes: what the library function takes, if that is more than the field's type.
        called: its name in the library function, if that differs from the field's.
        required: whether the library function demands it.
        positional: whether the library function takes it by position too, as it does the first one and the required ones.
    """
    metadata = {
        "help": help, "metavar": metavar, "otherwise": otherwise, "takes": takes, "called": called, "required": required,
        "positional": positional,
    }  # fmt: skip
    return field(default=default, metadata=metadata)


def settled(default: Any) -> Any:
    """A parameter that `Edit.resolve` fills and the file records; recipes may give it, the command line does not."""
    return field(default=default, metadata={"settled": True})


def passed_on() -> Any:
    """What `Edit.resolve` has read and `GraphEdit.change` uses. No parameter: it is never given, recorded or compared."""
    return field(default=None, repr=False, compare=False, metadata={"settled": True, "passed on": True})


@dataclass(frozen=True)
class Edit(ABC):
    """Changes what a model computes or offers."""

    verb: ClassVar[str]
    """Its name on the command line and in recipes. Like `step` and `summary`, it comes from `edit_list`."""
    step: ClassVar[str]
    """The word that its output's file name gets: ``model.<step>.onnx``."""
    summary: ClassVar[str]
    restores: ClassVar[bool] = False
    """Whether it gives back an earlier file, so that its proof is that file's fingerprint."""
    repeatable: ClassVar[bool] = False
    """Whether it does the same to any other encoder with the same interface, however that computes."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        listed = BY_CLASS.get(cls.__name__)
        if listed is not None:
            cls.verb, cls.step, cls.summary = listed.verb, listed.step, listed.summary

    def apply(self, model: Model, *, hash_weights: bool = False) -> Model:
        """``model`` after this edit; ``model`` itself is untouched. Raises what `resolve` raises."""
        edit, notes = self.resolve(model)
        edit._refuse_again(model)
        document = edit.document(model, weights=model.weights_fingerprint() if hash_weights else None)
        after = replace(model, document=document, notes=model.notes + notes)
        edit.ensure(model.interface, after.interface)
        return after

    @abstractmethod
    def resolve(self, model: Model) -> tuple[Self, tuple[str, ...]]:
        """This edit with every parameter settled for ``model``, and notes for the user; a RequestError where it cannot be
        done."""

    @abstractmethod
    def document(self, model: Model, weights: str | None) -> Document:
        """The edited document of a resolved edit, with the edit recorded in it."""

    def ensure(self, before: Interface, after: Interface) -> None:
        """Raise PostconditionError unless the interface changed as declared and in no other way: that is a bug of ours."""
        if not self.restores:
            require_promised(self.verb, "the inputs", before.inputs, after.inputs)

    def _refuse_again(self, model: Model) -> None:
        """AlreadyPooledError when this very edit is the newest that the file records."""
        newest = head_steps(model)[-1:]
        if newest and not self.restores and (newest[0].edit, newest[0].given) == (self.verb, self.parameters()):
            raise already_recorded(self.verb)

    def parameters(self) -> dict[str, Any]:
        """The parameters, as recorded in the file."""
        values = {one.name: getattr(self, one.name) for one in self.known()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def known(cls) -> tuple[Field[Any], ...]:
        """All parameters, those that `resolve` settles as well: what files record and recipes may give."""
        return tuple(one for one in fields(cls) if not one.metadata.get("passed on"))

    @classmethod
    def declared(cls) -> tuple[Field[Any], ...]:
        """The declared parameters, but those that are settled by `resolve`."""
        return tuple(one for one in fields(cls) if not one.metadata.get("settled"))


class GraphEdit(Edit):
    """An edit of the graph, recorded in the file's metadata."""

    @abstractmethod
    def change(self, draft: Draft, model: Model) -> None:
        """Change the draft's graph."""

    def document(self, model: Model, weights: str | None) -> Document:
        draft = Draft(model)
        self.change(draft, model)
        return recorded(model.document, draft.finish(), self.verb, self.parameters(), weights)


def already_recorded(verb: str) -> AlreadyPooledError:
    """The error for an edit that the file's newest record names already."""
    what = f"the file's newest recorded edit is this very {verb}"
    return AlreadyPooledError(what, "nothing is left to do; see `graphsurgery inspect`")


def require_opset(model: Model, verb: str) -> None:
    """UnsupportedModelError below the oldest supported opset."""
    if model.opset < OLDEST_OPSET:
        raise UnsupportedModelError(
            f"the model is of ai.onnx opset {model.opset}; {verb} needs {OLDEST_OPSET} or newer",
            "convert it first with onnx.version_converter.convert_version(model, 17), or export it again",
        )

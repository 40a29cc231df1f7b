"""An edit: a frozen dataclass whose fields are its parameters. All edits are applied in the same way.

`Edit.resolve` finds in the model what the edit needs and returns it as a `Resolved`. `GraphEdit.change` uses it.
`Edit.ensure` checks the new interface. The constructor, the command line's options, the library function, the recipe's keys and
the documentation all come from the fields. The edit's verb, file name and summary come from `edit_list`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import Field, dataclass, field, fields, replace
from importlib import import_module
from typing import Any, ClassVar, Generic, Self, TypeVar

from graphsurgery.argument_types import check_fields, require_type
from graphsurgery.edit_list import EDIT_LIST, ENTRY_BY_CLASS, ByVerb, EditEntry
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import AlreadyAppliedError, GraphSurgeryError, RequestError, UnsupportedModelError, require_promised
from graphsurgery.folders.head_modules import renew_module_warning
from graphsurgery.interface import Interface
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import record_edit
from graphsurgery.model.reach import drop_unreached
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
    option: str | None = None,
    required: bool = False,
    positional: bool = False,
) -> Any:
    """Declare a parameter of an edit. `edits.parameters` reads the declaration.

    Args:
        help: the sentences that the command line and the documentation show.
        metavar: the form of the value on the command line; `PATH` for a file or a folder.
        otherwise: what the edit uses if the parameter is left out, unless the default says it.
        takes: the type that the library function accepts, if that is more than the field's type.
        called: its name in the library function, if that differs from the field's.
        option: the command line's option, if that differs from the field's name, which may not be a word of Python.
        required: whether the library function demands it.
        positional: whether the library function accepts it by position, like the first parameter and the required ones.
    """
    metadata = {
        "help": help, "metavar": metavar, "otherwise": otherwise, "takes": takes, "called": called, "option": option,
        "required": required, "positional": positional,
    }  # fmt: skip
    return field(default=default, metadata=metadata)


def resolved_parameter(default: Any) -> Any:
    """Declare a parameter that `Edit.resolve` fills in. Files record it and recipes may give it; the command line does not."""
    return field(default=default, metadata={"resolved": True})


EditT = TypeVar("EditT")
FoundT = TypeVar("FoundT")


@dataclass(frozen=True)
class Resolved(Generic[EditT, FoundT]):
    """An edit resolved for one model."""

    edit: EditT
    """The edit with every parameter filled in. The file records these parameters."""
    found: FoundT
    """What `Edit.resolve` found in the model, so that nothing is searched twice."""
    notes: tuple[str, ...] = ()
    """Notes and warnings for the user."""


@dataclass(frozen=True)
class Edit(ABC):
    """Changes what a model computes or offers."""

    verb: ClassVar[str]
    """Its name on the command line and in recipes. Like `step` and `summary`, it comes from `edit_list`."""
    step: ClassVar[str]
    """The word in the file name of its output: ``model.<step>.onnx``."""
    summary: ClassVar[str]
    restores: ClassVar[bool] = False
    """Whether it restores an earlier file. The proof then compares that file's fingerprint."""
    repeatable: ClassVar[bool] = False
    """Whether it does the same to every encoder with the same interface."""
    drops: ClassVar[bool] = False
    """Whether it drops nodes and weights that the new outputs do not need. It cannot be undone. From `edit_list`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        entry = ENTRY_BY_CLASS.get(cls.__name__)
        if entry is not None and cls.__module__.endswith(f".{entry.function}"):
            cls.verb, cls.step, cls.summary, cls.drops = entry.verb, entry.step, entry.summary, entry.drops

    def apply(self, model: Model, *, hash_weights: bool = False) -> Model:
        """Return ``model`` after this edit. ``model`` itself does not change.

        Raises WrongTypeError for a model or a parameter of the wrong type, and what `resolve` raises. The error's field
        ``edit`` holds this edit.
        """
        require_type(model, Model, f"{self.verb}: model", "load it first: graphsurgery.load(path)")
        check_fields(self, self.verb)
        try:
            return self._apply(model, hash_weights)
        except GraphSurgeryError as error:
            error.edit = self
            raise

    def _apply(self, model: Model, hash_weights: bool) -> Model:
        result = self.resolve(model)
        edit = result.edit
        self._refuse_other_sizes(edit)
        edit._refuse_repetition(model)
        weights = model.weights_fingerprint() if hash_weights else None
        document = edit.document(model, result.found, weights)
        after = renew_module_warning(replace(model, document=document, remarks=model.remarks + result.notes))
        edit.ensure(model.interface, after.interface)
        return after

    @abstractmethod
    def resolve(self, model: Model) -> Resolved[Self, Any]:
        """Fill in every parameter for ``model``. Raises a RequestError if the edit cannot be applied."""

    @abstractmethod
    def document(self, model: Model, found: Any, weights: str | None) -> Document:
        """Return the edited document, which records the edit. Call it on a resolved edit, with what it ``found``."""

    def ensure(self, before: Interface, after: Interface) -> None:
        """Raise PostconditionError unless the interface changed as declared, and in no other way. Such an error is our bug."""
        if not self.restores:
            require_promised(self.verb, "the inputs", before.inputs, after.inputs)

    def _refuse_other_sizes(self, resolved: Edit) -> None:
        """Raise RequestError if a recipe gives a size, such as a width, and the model has another one.

        Other resolved parameters say where something is in a graph. They are found anew for each model.
        """
        for one in self.known():
            given, found = getattr(self, one.name), getattr(resolved, one.name)
            if one.metadata.get("resolved") and isinstance(given, int) and given not in (one.default, found):
                what = f"{self.verb} is given {one.name} = {given}, but this model has {found}"
                raise RequestError(what, f"leave {one.name} out of the recipe, or take the model that the recipe is for")

    def _refuse_repetition(self, model: Model) -> None:
        """Raise AlreadyAppliedError if the newest recorded edit is this one with the same parameters."""
        newest = read_head_steps(model)[-1:]
        if newest and not self.restores and (newest[0].edit, newest[0].given) == (self.verb, self.parameters()):
            raise make_repeated_error(self.verb)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as the file records them."""
        values = {one.name: getattr(self, one.name) for one in self.known()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def known(cls) -> tuple[Field[Any], ...]:
        """Return all parameters: those that files record and recipes may give."""
        return fields(cls)

    @classmethod
    def declared(cls) -> tuple[Field[Any], ...]:
        """Return the parameters that users give: all except those that `resolve` fills in."""
        return tuple(one for one in fields(cls) if not one.metadata.get("resolved"))


class GraphEdit(Edit, Generic[FoundT]):
    """An edit of the graph, recorded in the file's metadata."""

    @abstractmethod
    def resolve(self, model: Model) -> Resolved[Self, FoundT]:
        """See `Edit.resolve`."""

    @abstractmethod
    def change(self, draft: Draft, found: FoundT) -> None:
        """Change the draft's graph with what `resolve` ``found``."""

    def document(self, model: Model, found: Any, weights: str | None) -> Document:
        draft = Draft(model)
        self.change(draft, found)
        after = draft.finish()
        if self.drops:
            after = replace(after, graph=drop_unreached(after.graph))
        return record_edit(model.document, after, self.verb, self.parameters(), weights)


def make_repeated_error(verb: str) -> AlreadyAppliedError:
    """Return the error for an edit that repeats the newest recorded one."""
    what = f"the file already records this {verb} as its newest edit"
    return AlreadyAppliedError(what, "nothing is left to do; see `graphsurgery inspect`")


def require_opset(model: Model, verb: str) -> None:
    """Raise UnsupportedModelError if the model's opset is older than the oldest supported one."""
    if model.opset < OLDEST_OPSET:
        raise UnsupportedModelError(
            f"the model uses ai.onnx opset {model.opset}; {verb} needs {OLDEST_OPSET} or newer",
            "convert it first with onnx.version_converter.convert_version(model, 17), or export it again",
        )


def _import_class(entry: EditEntry) -> type[Edit]:
    edit: type[Edit] = getattr(import_module(f"graphsurgery.edits.{entry.function}"), entry.class_name)
    return edit


EDITS: ByVerb[type[Edit]] = ByVerb(EDIT_LIST, _import_class)
"""Every edit's class by its verb. Its module is imported when the class is looked up."""

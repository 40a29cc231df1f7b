"""The library's functions: one per edit, with its verb's name and parameters, made from the edit's dataclass.

`graphsurgery/__init__.pyi` has their signatures for type checkers and editors. `make generated` writes it from the same
declarations.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from inspect import Parameter as Argument
from inspect import Signature, cleandoc
from typing import Any

from graphsurgery.argument_types import require_type
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.parameters import FROM_HERE, Parameter, list_parameters
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model

MODEL = "the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed."
WIDTH = 120
ERROR = re.compile(r"\b[A-Z]\w+Error\b")


def make_function(edit: type[Edit]) -> Callable[..., Model]:
    """Return the library function of ``edit``. It takes a model and the edit's parameters, and returns the edited model."""
    signature = make_signature(edit)
    parameters = list_parameters(edit)

    def function(*positional: Any, **named: Any) -> Model:
        try:
            arguments = signature.bind(*positional, **named).arguments
        except TypeError as error:
            raise TypeError(f"{function.__name__}() {error}") from None
        for name, value in arguments.items():
            if value is not None:  # it stands for the default
                require_type(value, signature.parameters[name].annotation, f"{function.__name__}: {name}")
        values = {one.name: one.from_library(arguments[one.called]) for one in parameters if one.called in arguments}
        return edit(**values).apply(load(arguments["model"]))

    function.__name__ = function.__qualname__ = edit.verb.replace("-", "_")
    function.__module__ = "graphsurgery"
    function.__doc__ = make_docstring(edit)
    function.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()} | {"return": Model}
    function.__dict__["__signature__"] = signature
    return function


def make_signature(edit: type[Edit]) -> Signature:
    """Return the signature of the library function of ``edit``: the model, positional parameters, then the others."""
    arguments = [Argument("model", Argument.POSITIONAL_OR_KEYWORD, annotation=Loadable)]
    for one in sorted(list_parameters(edit), key=lambda one: not one.positional):
        kind = Argument.POSITIONAL_OR_KEYWORD if one.positional else Argument.KEYWORD_ONLY
        default = Argument.empty if one.required else one.library_default
        arguments.append(Argument(one.called, kind, default=default, annotation=one.takes))
    return Signature(arguments, return_annotation=Model)


def make_docstring(edit: type[Edit]) -> str:
    """Return the docstring of the library function of ``edit``, with its arguments, its result and its errors."""
    arguments = [("model", MODEL), *((one.called, _describe_parameter(one)) for one in list_parameters(edit))]
    errors = dict.fromkeys(ERROR.findall(edit.resolve.__doc__ or ""))
    sections = [
        cleandoc(edit.__doc__ or ""),
        "\n".join(["Args:", *(_wrap(f"{name}: {text}") for name, text in arguments)]),
        f"Returns:\n{_wrap('the edited model, as a new object.')}",
        f"Raises:\n{_wrap(', '.join(errors) + '.')}",
    ]
    return "\n\n".join(sections)


def _describe_parameter(one: Parameter) -> str:
    sentences = [one.help, FROM_HERE if one.is_path else "", f"Default: {one.otherwise}." if one.otherwise else ""]
    return " ".join(filter(None, sentences))


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH - 4, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False)

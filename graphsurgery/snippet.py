"""A program of three lines that runs a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from graphsurgery.encoder.head import EMBEDDING
from graphsurgery.encoder.roles import Roles, find_roles, is_cache
from graphsurgery.interface import Interface, Value
from graphsurgery.model.dtypes import FLOATS, to_numpy_dtype
from graphsurgery.runtime.texts import find_tokenizer

TEXT = "How are you?"


def make_snippet(path: Path, interface: Interface, beside: Path | None = None) -> str:
    """Return three lines of Python that embed one text with the file at ``path``.

    They use the tokenizer.json beside the file or beside ``beside``, or made-up ids if there is none.
    """
    tokenizer = find_tokenizer(path) or find_tokenizer(beside)
    roles = find_roles(interface)
    if tokenizer is None or roles.ids is None:
        imports, sources = "import numpy as np, onnxruntime", _list_made_up_sources(roles)
        encode = f"n = {_find_fixed_length(roles) or 3}  # tokens"
    else:
        imports = "import numpy as np, onnxruntime, tokenizers"
        encode = f"e = tokenizers.Tokenizer.from_file({shorten_path(tokenizer)!r}).encode({TEXT!r})"
        length = _find_fixed_length(roles)
        encode += f"; e.truncate({length}); e.pad({length})" if length is not None else ""
        sources = _list_encoded_sources(roles)
    feeds = ", ".join(f"{value.name!r}: {_format_array(value, sources.get(value.name))}" for value in interface.inputs)
    embedding = interface.output(EMBEDDING)
    outputs = [value.name for value in ((embedding,) if embedding is not None else interface.outputs[:1])]
    return (
        f"{imports}\n{encode}\nembedding = onnxruntime.InferenceSession({shorten_path(path)!r}).run({outputs}, {{{feeds}}})[0]"
    )


def shorten_path(path: Path) -> str:
    """Return a path relative to the current folder, if it is inside."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _list_encoded_sources(roles: Roles) -> dict[str, str]:
    found = (
        (roles.ids, "e.ids"),
        (roles.mask, "e.attention_mask"),
        (roles.types, "e.type_ids"),
        (roles.positions, "range(len(e.ids))"),
    )
    return {role.name: source for role, source in found if role is not None}


def _list_made_up_sources(roles: Roles) -> dict[str, str]:
    found = ((roles.ids, "range(n)"), (roles.mask, "[1] * n"), (roles.types, "[0] * n"), (roles.positions, "range(n)"))
    return {role.name: source for role, source in found if role is not None}


def _find_fixed_length(roles: Roles) -> int | None:
    """Return the sequence size that the ids are fixed to, if there is one."""
    dims = roles.ids.dims if roles.ids is not None else None
    return dims[1] if dims is not None and len(dims) == 2 and isinstance(dims[1], int) else None


def _format_array(value: Value, source: str | None) -> str:
    """Return the code of a numpy array for one input. numpy makes int64 of a list of int."""
    kind = to_numpy_dtype(value.dtype or 1)
    name = "bool" if kind == np.bool_ else f"np.{kind.name}"
    if source is not None:
        rows = f" * {value.dims[0]}" if value.dims and isinstance(value.dims[0], int) and value.dims[0] > 1 else ""
        return f"np.array([{source}]{rows}{'' if value.dtype == onnx.TensorProto.INT64 else f', {name}'})"
    shape = [dim if isinstance(dim, int) else 1 for dim in value.dims or ()]
    if is_cache(value):
        shape[1:] = [dim if isinstance(dim, int) else 0 for dim in (value.dims or ())[1:]]
    return f"np.{'ones' if value.dtype in FLOATS else 'zeros'}({tuple(shape)}, {name})"

"""Three lines of Python that run a file."""

from __future__ import annotations

from pathlib import Path

from graphsurgery.anatomy.roles import roles_of
from graphsurgery.interface import Interface, Value
from graphsurgery.model.dtypes import numpy_dtype
from graphsurgery.runtime.texts import find_tokenizer


def snippet(path: Path, interface: Interface, beside: Path | None = None) -> str:
    """Three lines that embed one text with the file at ``path``: with its tokenizer.json (looked for beside it and beside
    ``beside``), or with made-up ids where there is none."""
    tokenizer = find_tokenizer(path) or find_tokenizer(beside)
    roles = roles_of(interface)
    texts = tokenizer is not None and roles.ids is not None
    sources = {
        role.name: text if texts else made_up
        for role, text, made_up in (
            (roles.ids, "e.ids", "[101, 7592, 102]"),
            (roles.mask, "e.attention_mask", "[1, 1, 1]"),
            (roles.types, "e.type_ids", "[0, 0, 0]"),
            (roles.positions, "range(len(e.ids))", "[0, 1, 2]"),
        )
        if role is not None
    }
    feeds = ", ".join(f'"{value.name}": {_array(value, sources.get(value.name))}' for value in interface.inputs)
    output = interface.outputs[0].name if interface.outputs else ""
    encode = f"e = tokenizers.Tokenizer.from_file({str(tokenizer)!r}).encode('How are you?'); " if texts else ""
    imports = "import numpy as np, onnxruntime, tokenizers" if texts else "import numpy as np, onnxruntime"
    return "\n".join(
        [
            f"{imports}; session = onnxruntime.InferenceSession({str(path)!r})",
            f"{encode}feeds = {{{feeds}}}",
            f"embedding = session.run([{output!r}], feeds)[0]",
        ]
    )


def _array(value: Value, source: str | None) -> str:
    dtype = f"np.{numpy_dtype(value.dtype).name}" if value.dtype else "np.float32"
    if source is not None:
        return f"np.array([{source}], {dtype})"
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in value.dims or ())
    return f"np.ones({shape}, {dtype})"

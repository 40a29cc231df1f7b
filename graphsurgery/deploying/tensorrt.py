"""TensorRT: the `trtexec` command that builds an engine of a file, with the sizes that the engine has to take."""

from __future__ import annotations

import shlex

from graphsurgery.deploying.facts import Facts
from graphsurgery.errors import RequestError, UnsupportedModelError
from graphsurgery.interface import Value

USUAL_BATCH, USUAL_LENGTH = 8, 128
"""The sizes that an engine is made fastest for, unless the largest ones are smaller."""
SEPARATORS = frozenset(":,'\"")
SCRIPT = """\
#!/bin/sh
# Builds a TensorRT engine of {file}. It takes 1 to {most} rows at once{lengths}, and is fastest
# at the sizes of --optShapes. Engines run only on the kind of GPU, and with the version of TensorRT, that built them.
set -eu
exec trtexec \\
{options}
"""


def make_script(facts: Facts, place: str, max_batch: int) -> str:
    """Return a shell script that builds the engine.

    Args:
        place: where the model folder lies on the machine that builds.
        max_batch: the most rows of one run.

    Raises:
        RequestError: a name of an input holds a character by which trtexec separates names, or the longest text is not known.
        UnsupportedModelError: an input has a size that is neither fixed, nor the rows, nor the tokens of texts.
    """
    options = [f"--onnx={place.rstrip('/')}/{facts.file}", f"--saveEngine={facts.name}.plan"]
    dynamic = [one for one in facts.interface.inputs if not all(isinstance(dim, int) for dim in one.dims or ())]
    for one in dynamic:
        if SEPARATORS & set(one.name):
            what = f"trtexec cannot be told of an input with the name {one.name!r}"
            raise RequestError(what, "give it another name with `graphsurgery rename`")
    middle = (min(USUAL_BATCH, max_batch), min(USUAL_LENGTH, facts.longest or USUAL_LENGTH))
    profiles = {"min": (1, 1), "opt": middle, "max": (max_batch, facts.longest)}
    if dynamic:
        options += [
            f"--{name}Shapes=" + ",".join(f"{one.name}:{_join_sizes(one, facts, rows, tokens)}" for one in dynamic)
            for name, (rows, tokens) in profiles.items()
        ]
    written = " \\\n".join(f"  {shlex.quote(one)}" for one in options)
    has_texts = any(len(one.dims or ()) > 1 for one in dynamic) and facts.longest is not None
    lengths = f" of 1 to {facts.longest} tokens" if has_texts else ""
    return SCRIPT.format(file=facts.file, most=max_batch, lengths=lengths, options=written)


def _join_sizes(value: Value, facts: Facts, rows: int, tokens: int | None) -> str:
    """Return the dims of an input as trtexec takes them, such as ``8x128`` for 8 rows of 128 tokens."""
    return "x".join(str(_choose_size(value, axis, facts, rows, tokens)) for axis in range(len(value.dims or ())))


def _choose_size(value: Value, axis: int, facts: Facts, rows: int, tokens: int | None) -> int:
    dim = (value.dims or ())[axis]
    if isinstance(dim, int):
        return dim
    if axis == 0 and facts.is_batched:
        return rows
    if axis == 1 and value.rank == 2 and tokens is not None:
        return tokens
    if axis == 1 and value.rank == 2:
        what = f"the folder does not say how long a text may be, whose tokens are dim 1 of {value}"
        raise RequestError(what, "give the number of tokens with --longest")
    raise UnsupportedModelError(
        f"the largest size of dim {axis} of {value} is not known",
        "fix it with `graphsurgery fix-dim`, or run trtexec yourself with --minShapes, --optShapes and --maxShapes",
    )

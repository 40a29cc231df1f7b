"""The relation of an output to its source, a rewrite or any other, which decides what is compared and how strictly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from graphsurgery.compare.tolerance import LEAST_COSINE, Limits
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.operators import QUANTISED, get_operator
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS, NAMES
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.model.schema import walk_tensors
from graphsurgery.proof.expected import has_half_weights
from graphsurgery.references.chain import Chain
from graphsurgery.references.nested import list_all_nodes
from graphsurgery.report import list_few

HALVES = {NAMES[kind].lower(): kind for kind in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)}

QUANTIZED = "quantized"
"""The entry of a record that says that a rewrite made products in integers."""
LEAST_COSINE_OF_INTEGERS = 0.9
"""The least cosine for products in integers on drawn feeds, whose ids are not real text. On real text, a budget is checked."""
RECORDED = "recorded edits"
"""The name of the check on what a file records."""


@dataclass(frozen=True)
class Relation:
    """What is compared between an output and its source, and how strictly, as both files and their records say."""

    names: tuple[str, ...]
    """The values that are compared."""
    is_exact: bool
    """Whether they are held to float32's tolerances, rather than to an angle and a length."""
    empty_rows: bool
    """Whether the vectors of rows without a token count."""
    half: int | None
    """The half type that the output was converted to; None if it was not."""
    integer_products: int
    """The products that rewrites between the two are recorded to have quantised."""
    least_cosine: float
    """The least cosine that is allowed if no other is asked for, where the values are not exact."""
    not_checked: tuple[str, ...]
    """What is left out, and why."""

    @classmethod
    def of(cls, source: Model, output: Model, limits: Limits) -> Relation:
        """Return the relation of ``output`` to ``source``, from the rewrites that it records and what it computes."""
        records = _find_new_rewrites(source, output)
        kinds = (HALVES.get(str(step.parameters.get("precision"))) for step in reversed(records))
        half = next((kind for kind in kinds if kind is not None), None)
        half = half if half is not None and _is_computed_in(output, half) else None
        products = sum(_count_products(step) for step in records)
        in_integers = products > 0 and (is_quantised(output) or _has_half_constants(output))
        is_lossy = half is not None or has_half_weights(source) or in_integers
        is_exact = not is_lossy if records else limits.min_cosine is None
        head = bool(read_head_steps(output))
        reheaded = bool(records) and head and not read_head_steps(source)
        empty_rows = not reheaded and (is_exact or head)
        names, not_checked = _choose_values(source, output, only_floats=bool(records))
        if reheaded:
            not_checked.append("rows without a token: our head gives zeros there, but the source's may give anything")
        elif not empty_rows:
            not_checked.append("rows without a token: an encoder's output there depends on the number that masks scores")
        least = LEAST_COSINE_OF_INTEGERS if in_integers else LEAST_COSINE
        counted = products if in_integers else 0
        return cls(tuple(names), is_exact, empty_rows, half, counted, least, tuple(not_checked))


def _find_new_rewrites(source: Model, output: Model) -> tuple[Step, ...]:
    """Return the rewrites that ``output`` records and ``source`` does not."""
    before, after = source.rewrites, output.rewrites
    return after[len(before) :] if after[: len(before)] == before else after


def explain_other_inputs(source: Model, output: Model) -> str | None:
    """Say how the models do not take the same feeds; None if they do."""
    before = {value.name: value for value in source.interface.inputs}
    after = {value.name: value for value in output.interface.inputs}
    alike = {name for name in before.keys() & after.keys() if _takes(after[name], before[name])}
    if before.keys() == after.keys() == alike:
        return None
    mine, theirs = (
        list_few(str(value) for name, value in side.items() if name not in alike) or "nothing else" for side in (after, before)
    )
    return f"the models take different inputs: the model {mine}, the source {theirs}"


def _takes(value: Value, taken: Value) -> bool:
    """Return whether an input takes all that ``taken`` takes: it has the same type (or both are floats) and fits its sizes."""
    if value.dtype != taken.dtype and not (_is_float(value) and _is_float(taken)):
        return False
    if value.dims is None or taken.dims is None:
        return True
    sizes = zip(value.dims, taken.dims, strict=False)
    return len(value.dims) == len(taken.dims) and all(not isinstance(one, int) or one == other for one, other in sizes)


def _is_computed_in(model: Model, kind: int) -> bool:
    """Return whether a file computes in the half type that it records: a weight has the type, or a node casts to it."""
    casts = (node for node in list_all_nodes(model.proto.graph) if node.op_type == "Cast")
    return any(tensor.data_type == kind for _, tensor in walk_tensors(model.proto)) or any(
        attribute.i == kind for node in casts for attribute in node.attribute
    )


def _count_products(step: Step) -> int:
    """Return how many products a rewrite is recorded to have quantised; 1 if it quantised tables alone."""
    recorded = step.parameters.get(QUANTIZED)
    count = recorded.get("products") if isinstance(recorded, dict) else 0
    return max(count, 1) if isinstance(count, int) and recorded else 0


def is_quantised(model: Model) -> bool:
    """Return whether a file computes with integers in place of floats."""
    return any(get_operator(node) in QUANTISED for node in list_all_nodes(model.proto.graph))


def _has_half_constants(model: Model) -> bool:
    return any(tensor.data_type in HALVES.values() for _, tensor in walk_tensors(model.proto))


def _choose_values(source: Model, output: Model, *, only_floats: bool) -> tuple[list[str], list[str]]:
    """Return the values of both models that are compared, and what is left out and why.

    These are the outputs that both give, if they are numbers. With ``only_floats`` they must be floats; if all outputs are
    bytes, the values that the head starts from are compared.
    """
    shared: list[str] = []
    left_out: dict[str, list[str]] = {}
    for value in output.interface.outputs:
        other = source.interface.output(value.name)
        if not _is_numeric(value) or (other is not None and not _is_numeric(other)):
            left_out.setdefault("output {}: not a tensor of numbers", []).append(value.name)
        elif other is None:
            left_out.setdefault("output {}: the source has no output of that name", []).append(value.name)
        elif only_floats and not (_is_float(value) and _is_float(other)):
            left_out.setdefault("output {}: only floats are compared", []).append(str(value))
        else:
            shared.append(value.name)
    names = {value.name for value in output.interface.outputs}
    lost = [value.name for value in source.interface.outputs if value.name not in names]
    left_out |= {"output {} of the source: the model has no output of that name": lost} if lost else {}
    not_checked = [what.format(list_few(those)) for what, those in left_out.items()]
    return shared or (list(_find_head_starts(source, output)) if only_floats else []), not_checked


def _find_head_starts(source: Model, output: Model) -> Iterator[str]:
    """Yield the values from which the head that both files record starts."""
    try:
        names = Chain(read_head_steps(output)).starts
    except UnsupportedModelError:  # an edit that this version does not know
        return
    for name in names:
        if all(any(name in node.output for node in model.proto.graph.node) for model in (source, output)):
            yield name


def _is_numeric(value: Value) -> bool:
    return value.dtype not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)


def _is_float(value: Value) -> bool:
    return value.dtype in FLOATS

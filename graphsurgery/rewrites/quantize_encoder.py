"""The rewrite ``quantize``: products of tokens with weights in integers, or weights in fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

from graphsurgery.compare.tolerance import LOSSY
from graphsurgery.edits.edit import parameter
from graphsurgery.encoder.flow import Flow
from graphsurgery.errors import AlreadyAppliedError, NothingToOptimizeError, RequestError, UnsupportedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.write_back import replace_graph
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once
from graphsurgery.proof.golden_values import COARSE
from graphsurgery.proof.quantized import check_quantized
from graphsurgery.proof.relation import LEAST_COSINE_OF_INTEGERS, is_quantised
from graphsurgery.proof.relation import QUANTIZED as RECORDED
from graphsurgery.remarks import Warn
from graphsurgery.report import Check
from graphsurgery.rewrites.detect_architecture import detect_architecture
from graphsurgery.rewrites.padding_free.unfuse import unfuse
from graphsurgery.rewrites.quantize.calibration import Sample
from graphsurgery.rewrites.quantize.lowering import Lowering
from graphsurgery.rewrites.quantize.plans import Plan, make_plan
from graphsurgery.rewrites.quantize.products import (
    Group,
    GroupSize,
    find_groups,
    measure_group,
    read_bias,
    read_weights,
)
from graphsurgery.rewrites.quantize.targets import LARGEST, PORTABLE, TARGETS, VNNI, detect_target
from graphsurgery.rewrites.quantize.texts import BUNDLED, sample_on_texts
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.rewrites.unchangeable import require_open_encoder

NONE = "none"
INT8, DYNAMIC, QDQ, WEIGHTS_8, WEIGHTS_4, WEIGHTS_16 = SCHEMES = (
    "int8", "dynamic", "qdq", "weights-8bit", "weights-4bit", "weights-fp16",
)  # fmt: skip
BITS = {WEIGHTS_8: 8, WEIGHTS_4: 4, WEIGHTS_16: 16}
"""The bits of a weight, for the schemes that compute in float32."""
OLDEST_OPSET = 13
"""The opset since which DequantizeLinear has scales for each column."""
FARTHER = 3
"""On drawn feeds, whose ids are not real text, 1 - cosine may be this many times as large as on real text."""
_UNFUSED: Store[Model] = WeakKeyDictionary()
_PLANS: Store[Plan] = WeakKeyDictionary()


@dataclass(frozen=True)
class Quantize(Rewrite):
    """Compute the products of tokens with stored matrices in integers of 8 bits, and all else in float32.

    Weights have one scale for each column. Activations have one scale for each row (``[batch, seq]``), so that a text's vector
    does not depend on the other texts of its batch, or for those in ``static`` one range for all texts, from calibration.
    """

    name: ClassVar[str] = "quantize"
    step: ClassVar[str] = "int8"
    summary: ClassVar[str] = "compute the products of tokens with weights in 8-bit integers"
    exactness: ClassVar[str] = LOSSY
    doing: ClassVar[str] = "quantising the encoder"

    scheme: str = parameter(
        "int8: integers with a scale for each row, or one range for the values in static. dynamic: one range for the whole "
        "batch. qdq: QuantizeLinear and DequantizeLinear with calibrated ranges. The others store weights in fewer bits and "
        "compute in float32.", INT8, "|".join(SCHEMES),
    )  # fmt: skip
    target: str = parameter(
        "The processors and runtimes that the file is for.", "", "|".join(TARGETS), otherwise="this machine's"
    )
    calibrate: str = parameter(
        "A UTF-8 file with one text per line, on which ranges, divisors and rounding are calibrated; `bundled` for texts of "
        "our own in many languages; `none` to calibrate nothing.", BUNDLED, "PATH",
    )  # fmt: skip
    static: tuple[str, ...] = parameter("Values whose integers have one calibrated range for all texts.", (), "NAME")
    float32: tuple[str, ...] = parameter("Values whose products stay float32.", (), "NAME")
    tables: bool = parameter("Store embedding tables in fewer bits, too: integers with one scale for each row.", False)
    min_cosine: float = parameter(
        "The least cosine on real text between a vector and the float32 file's, to which the file is held.", 0.0,
        otherwise="none",
    )  # fmt: skip
    texts: str = parameter("A UTF-8 file with one text per line to judge by.", "", "PATH", otherwise="texts of our own")

    def __post_init__(self) -> None:
        """Raise RequestError for an unknown scheme or target, for ranges without calibration or of another scheme."""
        for what, value, known in (("scheme", self.scheme, SCHEMES), ("target", self.target, ("", *TARGETS))):
            if value not in known:
                raise RequestError(f"there is no {what} {value!r}", f"choose from {', '.join(filter(None, known))}")
        if (self.static or self.scheme == QDQ) and self.calibrate == NONE:
            raise RequestError("ranges for all texts need calibration texts", f"give calibrate a text file or {BUNDLED!r}")
        if self.static and self.scheme != INT8:
            raise RequestError(f"static chooses values for the scheme {INT8}, and this is {self.scheme}", "leave out static")
        if self.scheme == WEIGHTS_4 and self.target == PORTABLE:
            raise RequestError("the products with 4-bit weights are an operator of ONNX Runtime alone", f"choose {WEIGHTS_8}")

    @property
    def least_cosine(self) -> float | None:
        if not self.min_cosine:
            return None
        return min(LEAST_COSINE_OF_INTEGERS, max(1 - FARTHER * (1 - self.min_cosine), min(self.min_cosine, 0.0)))

    @property
    def is_batch_invariant(self) -> bool:
        """Whether a text's vector does not depend on the texts it is batched with."""
        return self.scheme != DYNAMIC

    def check(self, model: Model) -> None:
        if is_quantised(model):
            raise AlreadyAppliedError("the file is quantised already", "quantise the float32 file that it was made of")
        opset = Graph.of(model).opset
        if opset < OLDEST_OPSET:
            what = f"the file has opset {opset}, and {self.name} needs {OLDEST_OPSET}"
            raise UnsupportedModelError(what, "raise it with onnx.version_converter, or export the model again")
        require_open_encoder(model)

    def resolve(self, encoder: Model) -> Self:
        return self if self.target else replace(self, target=detect_target())

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        """Quantise ``encoder``. Raises NothingToOptimizeError without a product to quantise, RequestError if calibration
        fails."""
        given = _unfuse_once(encoder)
        editor = Editor(given.proto)
        flow = Flow.of(given, editor)
        groups = find_groups(flow)
        names = {group.name for group in groups}
        unknown = sorted({*self.static, *self.float32} - names)
        if unknown:
            what = f"no products of tokens with weights read {', '.join(unknown)}"
            raise RequestError(what, f"the values are {', '.join(sorted(names)) or 'none'}")
        chosen = [group for group in groups if group.name not in self.float32]
        if not chosen and not self.tables:
            raise NothingToOptimizeError("no product of this encoder can be quantised", "use the file as it is")
        lowering = Lowering(editor, standard=self.target == PORTABLE)
        self._quantise(lowering, given, flow, chosen)
        tables = self._store_tables(lowering, flow) if self.tables else 0
        editor.remove_unread()
        products, every = (sum(len(group.products) for group in those) for those in (chosen, groups))
        return Rewritten(
            replace_graph(given, editor.finish()),
            {RECORDED: self._record() | {"products": products}},
            tuple(self._describe(products, every, tables)),
            architecture=detect_architecture(encoder),
            golden_limits=COARSE,
        )

    def _quantise(self, lowering: Lowering, encoder: Model, flow: Flow, groups: Sequence[Group]) -> None:
        """Replace the products of ``groups``."""
        bits = BITS.get(self.scheme)
        if bits is not None and (self.target != PORTABLE or bits != BITS[WEIGHTS_8]):
            for product in (one for group in groups for one in group.products):
                lowering.shrink_weights(product, read_weights(flow, product), bits)
            return
        plans = self._make_plans(encoder, flow, groups)
        for group in groups:
            plan = plans[group.name]
            if self.scheme == DYNAMIC:
                lowering.quantise_dynamically(group, plan)
            elif self.scheme == QDQ:
                lowering.mark_integers(group, plan)
            elif bits is not None:
                for product, matrix in zip(group.products, plan.matrices, strict=True):
                    lowering.shrink_weights(product, matrix, bits)
            else:
                lowering.quantise(group, plan, static=group.name in self.static)

    def _store_tables(self, lowering: Lowering, flow: Flow) -> int:
        return lowering.shrink_tables(flow) if self.scheme == WEIGHTS_16 else lowering.quantise_tables(flow)

    def _describe(self, products: int, every: int, tables: int) -> Iterable[str]:
        what = "are computed in integers" if self.scheme not in BITS else f"have weights of {BITS[self.scheme]} bits"
        yield f"{products} of {every} products of tokens {what}"
        if tables:
            yield f"{tables} lookups read embedding tables of {16 if self.scheme == WEIGHTS_16 else 8} bits"
        if not self.is_batch_invariant:
            yield Warn("there is one range for the whole batch: a text's vector changes with the texts it is batched with")

    def _record(self) -> dict[str, Any]:
        """Return the parameters that the file records: those that differ from the default, and of files their names alone."""
        given = {one.name: getattr(self, one.name) for one in self.known() if getattr(self, one.name) != one.default}
        given |= {"scheme": self.scheme}
        shown = {name: Path(value).name if name in ("calibrate", "texts") else value for name, value in given.items()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in shown.items()}

    def _make_plans(self, encoder: Model, flow: Flow, groups: Sequence[Group]) -> dict[str, Plan]:
        """Return how each of ``groups`` is quantised. Plans are made once for each encoder."""
        is_exact = self.scheme in BITS
        largest, samples = LARGEST[VNNI if is_exact else self.target], dict[str, Sample]()
        if self.calibrate != NONE and self.scheme in (INT8, QDQ):
            every = list_groups(encoder)  # whichever are asked for, so that they are sampled once
            sizes = {one.name: one.inner for one in every}
            samples = sample_on_texts(encoder, self.calibrate, sizes)
        equalised = self.scheme == INT8

        def make(group: Group) -> Plan:
            weights = [read_weights(flow, one) for one in group.products]
            biases = [read_bias(flow, one) for one in group.products]
            equalise = equalised and group.lowest is None
            return make_plan(weights, biases, samples.get(group.name), largest, equalise=equalise)

        key = (self.scheme, self.calibrate, largest)
        return {one.name: find_once(_PLANS, encoder, (*key, one.name), partial(make, one)) for one in groups}

    def list_checks(self, before: Model) -> Sequence[Callable[[Model], Iterable[Check]]]:
        def check(written: Model) -> Iterable[Check]:
            counted = int(written.rewrites[-1].parameters[RECORDED]["products"])
            texts, is_free = self.texts or None, self.is_batch_invariant
            plain = _unfuse_once(before)
            return check_quantized(before, plain, written, counted, self.min_cosine, texts, batch_invariant=is_free)

        return (check,)

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        given = parameters.get(RECORDED)
        if not isinstance(given, Mapping):
            return None
        known = {one.name for one in cls.known()}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name in known
        }
        return cls(**values)


def list_groups(encoder: Model) -> tuple[GroupSize, ...]:
    """Return the groups of products that `Quantize` finds in ``encoder``, in the order in which they run."""
    flow = Flow.of(_unfuse_once(encoder))
    return tuple(measure_group(flow, group) for group in find_groups(flow))


def _unfuse_once(encoder: Model) -> Model:
    """Return ``encoder`` with its fused attentions and norms taken apart, so that their products can be quantised."""
    return find_once(_UNFUSED, encoder, (), lambda: _unfuse(encoder))


def _unfuse(encoder: Model) -> Model:
    editor = Editor(encoder.proto)
    unfuse(editor)
    return replace_graph(encoder, editor.finish())

"""Every edit by its verb."""

from __future__ import annotations

from graphsurgery.edits.add_activation import AddActivation
from graphsurgery.edits.add_cnn import AddCnn
from graphsurgery.edits.add_dense import AddDense
from graphsurgery.edits.add_layer_norm import AddLayerNorm
from graphsurgery.edits.add_lstm import AddLstm
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.edits.add_splade_pooling import AddSpladePooling
from graphsurgery.edits.add_weighted_layer_pooling import AddWeightedLayerPooling
from graphsurgery.edits.add_word_weights import AddWordWeights
from graphsurgery.edits.drop_input import DropInput
from graphsurgery.edits.dynamic_dim import DynamicDim
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.fix_dim import FixDim
from graphsurgery.edits.input_type import InputType
from graphsurgery.edits.mask_tokens import MaskTokens
from graphsurgery.edits.optional_input import OptionalInput
from graphsurgery.edits.output_precision import OutputPrecision
from graphsurgery.edits.rename import Rename
from graphsurgery.edits.strip_head import StripHead
from graphsurgery.edits.truncate import Truncate

ALL: tuple[type[Edit], ...] = (
    AddPooling, AddNormalize, AddDense, AddLayerNorm, AddActivation, AddCnn, AddLstm, AddWordWeights, AddWeightedLayerPooling,
    AddSpladePooling, MaskTokens, Truncate, OutputPrecision,
    DropInput, OptionalInput, InputType, Rename, FixDim, DynamicDim, StripHead,
)  # fmt: skip
EDITS: dict[str, type[Edit]] = {edit.verb: edit for edit in ALL}

# `make generated` writes this file from the edits' declarations. Change those, not this.

import os
from collections.abc import Mapping, Sequence

from graphsurgery.baking.bake import Baked, bake
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
from graphsurgery.edits.fix_dim import FixDim
from graphsurgery.edits.input_type import InputType
from graphsurgery.edits.mask_tokens import MaskTokens
from graphsurgery.edits.optional_input import OptionalInput
from graphsurgery.edits.output_precision import OutputPrecision
from graphsurgery.edits.rename import Rename
from graphsurgery.edits.strip_head import StripHead
from graphsurgery.edits.truncate import Truncate
from graphsurgery.errors import GraphSurgeryError, VerificationFailed
from graphsurgery.exporting import Exported, export
from graphsurgery.inspection import Inspection, inspect
from graphsurgery.interface import Interface, Value
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model
from graphsurgery.model.saving import save
from graphsurgery.model.staging import Saved
from graphsurgery.optimizer.optimize import optimize
from graphsurgery.outcome import Optimized, Outcome
from graphsurgery.proof.golden import verify_itself
from graphsurgery.proof.verify import verify
from graphsurgery.recipe import Recipe
from graphsurgery.recipe_run import run_recipe
from graphsurgery.report import Report, Verdict
from graphsurgery.rewrites.convert_to_half import Half
from graphsurgery.rewrites.fuse_encoder import Fuse
from graphsurgery.rewrites.reattach_head import ReattachHead
from graphsurgery.rewrites.simplify_encoder import Simplify
from graphsurgery.runner import run
from graphsurgery.version import __version__

__all__ = [
    "AddActivation",
    "AddCnn",
    "AddDense",
    "AddLayerNorm",
    "AddLstm",
    "AddNormalize",
    "AddPooling",
    "AddSpladePooling",
    "AddWeightedLayerPooling",
    "AddWordWeights",
    "Baked",
    "DropInput",
    "DynamicDim",
    "Exported",
    "FixDim",
    "Fuse",
    "GraphSurgeryError",
    "Half",
    "InputType",
    "Inspection",
    "Interface",
    "MaskTokens",
    "Model",
    "Optimized",
    "OptionalInput",
    "Outcome",
    "OutputPrecision",
    "ReattachHead",
    "Recipe",
    "Rename",
    "Report",
    "Saved",
    "Simplify",
    "StripHead",
    "Truncate",
    "Value",
    "Verdict",
    "VerificationFailed",
    "__version__",
    "add_activation",
    "add_cnn",
    "add_dense",
    "add_layer_norm",
    "add_lstm",
    "add_normalize",
    "add_pooling",
    "add_splade_pooling",
    "add_weighted_layer_pooling",
    "add_word_weights",
    "bake",
    "drop_input",
    "dynamic_dim",
    "export",
    "fix_dim",
    "input_type",
    "inspect",
    "load",
    "mask_tokens",
    "optimize",
    "optional_input",
    "output_precision",
    "rename",
    "run",
    "run_recipe",
    "save",
    "strip_head",
    "truncate",
    "verify",
    "verify_itself",
]

def add_activation(
    model: Loadable,
    activation: str,
    *,
    target: str | None = None,
    output_name: str | None = None,
    keep_target: bool = False,
) -> Model:
    """Append an activation to an output: ``y = activation(x)``, float32. Makes scores of a cross-encoder's logits.

    As ``activation_fn`` of sentence-transformers' CrossEncoder, which is sigmoid where there is one label and identity where
    there are more, unless the model's config names another. The activation is torch.nn's, with its defaults; softmax and its
    like are over the last dim of ``[batch, dim]``.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        activation: The activation, as torch.nn names it: sigmoid, softmax, tanh, ...
        target: The output to work on. Default: sentence_embedding, else the only float output [batch, dim].
        output_name: The name of the result. Default: the target's name.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

def add_cnn(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    target: str | None = None,
    output_name: str = "token_embeddings",
    keep_target: bool = False,
) -> Model:
    """Convolve the token embeddings: ``x [batch, seq, in]`` -> ``token_embeddings [batch, seq, sum of out]`` float32.

    Of each kernel, ``y[t] = b + sum over j of W[:, :, j] x[t + j - (size - 1) / 2]``, x being 0 before the first position and
    behind the last; the kernels' values stand side by side. W ``[out, in, size]`` and b ``[out]`` are ``convs.<i>.weight`` and
    ``convs.<i>.bias`` of a model folder's CNN module. As sentence-transformers' CNN module, which convolves over what stands
    at padded positions, too: a token near padding depends on it. Kernels of even size are refused: they shorten the sequence.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        weights: The CNN module's folder, or its model.safetensors or pytorch_model.bin: convs.<i>.weight [out, in,
            size] and convs.<i>.bias [out]. A relative path starts at the current folder.
        target: The token embeddings. Default: the hidden state found in the graph.
        output_name: The name of the result.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, a new one.

    Raises:
        WeightsError, FolderError, NothingToPoolError, NameNotFoundError, RequestError, UnsupportedModelError,
            WeightsDifferError.
    """

def add_dense(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    activation: str | None = None,
    residual: bool = False,
    target: str | None = None,
    output_name: str | None = None,
    keep_target: bool = False,
) -> Model:
    """Append a linear layer with an activation: ``y = activation(x Wt + b)``, ``[..., in]`` -> ``[..., out]`` float32.

    W ``[out, in]`` and b ``[out]`` are ``linear.weight`` and ``linear.bias`` of a model folder's Dense module, read without
    PyTorch. As sentence-transformers' Dense module; with a residual as PyLate's: ``y = activation(x Wt + b) + x``, or
    ``+ x Rt`` where the file has R ``[out, in]``, ``residual.weight``.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        weights: The Dense module's folder, or its model.safetensors or pytorch_model.bin: linear.weight [out, in] and,
            if there is one, linear.bias [out]. A relative path starts at the current folder.
        activation: The activation, as torch.nn names it: tanh, gelu, ... Default: the one in the config.json beside the
            weights, else none.
        residual: Add the input to the result, multiplied by residual.weight if the file has one. Default: as the
            config.json says.
        target: The output to work on. Default: sentence_embedding, else the only float output [batch, dim].
        output_name: The name of the result. Default: the target's name.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, FolderError, WeightsError, NameNotFoundError, UnsupportedModelError, WeightsDifferError.
    """

def add_layer_norm(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    target: str | None = None,
) -> Model:
    """Append layer normalisation: ``y = (x - mean) / sqrt(var + 1e-5) * scale + shift`` over the last dim, float32.

    scale and shift ``[dim]`` are ``norm.weight`` and ``norm.bias`` of a model folder's LayerNorm module. As
    sentence-transformers' LayerNorm module and torch.nn.LayerNorm (arXiv 1607.06450).

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        weights: The LayerNorm module's folder, or its weights file: norm.weight and norm.bias, [dim] each. A relative
            path starts at the current folder.
        target: The output to work on. Default: sentence_embedding, else the only float output [batch, dim].

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, WeightsError, NameNotFoundError, UnsupportedModelError.
    """

def add_lstm(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    target: str | None = None,
    mask: str | None = None,
    ids: str | None = None,
    output_name: str = "token_embeddings",
    keep_target: bool = False,
) -> Model:
    """Run an LSTM over the token embeddings: ``x [batch, seq, in]`` -> ``token_embeddings [batch, seq, directions * H]``.

    At each position, from the state h and the cell c of the one before (0 at first): ``i, f, o = sigmoid(W x + b + R h + d)``,
    ``g = tanh(W x + b + R h + d)``, each with weights of its own; ``c = f c + i g``, ``h = o tanh(c)``, in float32. Layers
    stand on each other; a second direction starts at a row's last token, and its h stand beside the first's. The weights are
    those of a model folder's LSTM module. As sentence-transformers' LSTM module and pack_padded_sequence: a row is as long as
    it has tokens, 1 at least, and starts at position 0, so padding has to be on the right; behind a row's length stand zeros.
    (There the result is cut to the longest row; here it keeps the sequence.)

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        weights: The LSTM module's folder, or its model.safetensors or pytorch_model.bin: encoder.weight_ih_l0 [4H, in]
            and so on, as torch.nn.LSTM names them. A relative path starts at the current folder.
        target: The token embeddings. Default: the hidden state found in the graph.
        mask: The mask, which gives each row's length: an input's name, not:NAME, additive:NAME, lengths:NAME, ones, or
            pad:ID (as in add-pooling). Default: the attention mask input.
        ids: The input with the token ids. Default: input_ids.
        output_name: The name of the result.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, a new one.

    Raises:
        WeightsError, FolderError, MaskError, NothingToPoolError, NameNotFoundError, RequestError,
            UnsupportedModelError, WeightsDifferError.
    """

def add_normalize(
    model: Loadable,
    target: str | None = None,
) -> Model:
    """Append L2 normalisation to an embedding output: ``y = x / max(norm2(x), 1e-12)`` over the last dim, float32.

    The output keeps its name and its place; the value it had before gets a new name inside the graph. Token embeddings
    ``[batch, seq, dim]`` are normalised token by token. As sentence-transformers' Normalize module and
    ``torch.nn.functional.normalize``.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        target: The output to normalise. Default: sentence_embedding, else the only float output [batch, dim].

    Returns:
        the edited model, a new one.

    Raises:
        NameNotFoundError, RequestError, AlreadyAppliedError, UnsupportedModelError.
    """

def add_pooling(
    model: Loadable,
    mode: str | Sequence[str] = "auto",
    *,
    normalize: bool = False,
    hidden_state: str | None = None,
    mask: str | None = None,
    ids: str | None = None,
    output_name: str = "sentence_embedding",
    keep_output: Sequence[str] = (),
    token_weights: str | None = None,
    skip_prompt: int | str | None = None,
) -> Model:
    """Append pooling, and L2 normalisation where asked: ``[batch, seq, dim]`` -> ``sentence_embedding [batch, dim]`` float32.

    The mathematics are those of sentence-transformers' Pooling module (see `pooling_graph`), but for rows without any
    token, which give zeros, and padded positions, which never contribute. The head computes in float32 whatever the
    encoder's type.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        mode: Pooling mode: cls, mean, max, mean_sqrt_len_tokens, weightedmean, lasttoken, or auto (read the folder's
            1_Pooling/config.json). Several modes, separated by commas, are concatenated in that order.
        normalize: Append L2 normalisation as well.
        hidden_state: The value to pool: [batch, seq, dim] in float32, float16, bfloat16 or float64. Default: the hidden
            state found in the graph.
        mask: The mask: an input's name (a token is where it is not 0), not:NAME (a token is where it is 0),
            additive:NAME (0 at tokens, a large negative number at padding), lengths:NAME (tokens per row, [batch]),
            ones (every position is a token), or pad:ID (tokens are the ids other than ID). Default: the attention mask
            input.
        ids: The input with the token ids. Default: input_ids.
        output_name: The name of the embedding.
        keep_output: An output of the encoder to keep. The others are dropped.
        token_weights: The weights [batch, seq] by which the tokens were multiplied. Means divide by their sum. Default:
            those of a recorded add-word-weights.
        skip_prompt: Leave out the prompt: N positions from each row's first token on, as sentence-transformers does if
            a config says include_prompt: false. With input, a new input prompt_length (int64 [1]) says how many.

    Returns:
        the edited model, a new one.

    Raises:
        AlreadyAppliedError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError, RequestError.
    """

def add_splade_pooling(
    model: Loadable,
    strategy: str = "max",
    activation: str = "relu",
    *,
    target: str | None = None,
    mask: str | None = None,
    ids: str | None = None,
    output_name: str = "sentence_embedding",
    keep_output: Sequence[str] = (),
) -> Model:
    """Append SPLADE pooling: scores ``x [batch, seq, vocabulary]`` -> ``sentence_embedding [batch, vocabulary]`` float32.

    ``y = log(1 + relu(x))``, or ``log(1 + log(1 + relu(x)))`` with ``--activation log1p_relu``, and of these the max over the
    tokens, or their sum. As sentence-transformers' SpladePooling module (arXiv 2109.10086, 2504.14839), but for padded
    positions, which never contribute, whatever stands there. A row without any token gives zeros.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        strategy: How the tokens are combined: max or sum.
        activation: relu for log(1 + relu(x)), log1p_relu for log(1 + log(1 + relu(x))).
        target: The scores. Default: logits, else the only output as wide as the vocabulary.
        mask: The mask: an input's name (a token is where it is not 0), not:NAME (a token is where it is 0),
            additive:NAME (0 at tokens, a large negative number at padding), lengths:NAME (tokens per row, [batch]),
            ones (every position is a token), or pad:ID (tokens are the ids other than ID). Default: the attention mask
            input.
        ids: The input with the token ids. Default: input_ids.
        output_name: The name of the embedding.
        keep_output: An output of the encoder to keep. The others are dropped.

    Returns:
        the edited model, a new one.

    Raises:
        AlreadyAppliedError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError, RequestError.
    """

def add_weighted_layer_pooling(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    layers: str | Sequence[str] | None = None,
    before_norm: bool = False,
    target: str | None = None,
    output_name: str = "token_embeddings",
    keep_target: bool = False,
) -> Model:
    """Take a weighted mean of the hidden layers: ``x_i [batch, seq, dim]`` -> ``token_embeddings [batch, seq, dim]`` float32.

    ``y = sum(w_i x_i) / sum w`` over the hidden layers from ``layer_start`` on, 0 being the embeddings' output; w is
    ``layer_weights`` of a model folder's WeightedLayerPooling module. As sentence-transformers' module on transformers' hidden
    states: outputs named ``hidden_states.<n>`` where the export has them, else found by the graph's structure.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        weights: The WeightedLayerPooling module's folder: its config.json and layer_weights [layers]. A relative path
            starts at the current folder.
        layers: The names of all hidden layers, the output of the embeddings first. Default: the hidden layers found in
            the graph.
        before_norm: Take the last hidden layer before the encoder's final normalisation.
        target: The last hidden state, an output. Default: the hidden state found in the graph.
        output_name: The name of the result.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, a new one.

    Raises:
        WeightsError, FolderError, NothingToPoolError, NameNotFoundError, RequestError, WeightsDifferError,
            UnsupportedModelError.
    """

def add_word_weights(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    target: str | None = None,
    mask: str | None = None,
    ids: str | None = None,
    output_name: str = "token_embeddings",
    token_weights: str = "token_weights",
    keep_target: bool = False,
) -> Model:
    """Multiply each token embedding with the weight of its word: ``x [batch, seq, dim]`` -> ``token_embeddings`` float32.

    ``y = x w``, w being the weight of the token's id where the mask has a token, and 0 at padding. The weights (idf, say) are
    built from the config of a model folder's WordWeights module, as sentence-transformers' module does: that of the word, else
    of the word in lower case, else ``unknown_word_weight``. w is left in the graph as the value ``token_weights [batch, seq]``:
    the pooling that follows divides by its sum where it would by the number of tokens. Ids beyond the config's vocabulary,
    where the encoder's is larger, count as unknown words.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        weights: The WordWeights module's folder, or its config.json. A relative path starts at the current folder.
        target: The token embeddings. Default: the hidden state found in the graph.
        mask: The mask: an input's name (a token is where it is not 0), not:NAME (a token is where it is 0),
            additive:NAME (0 at tokens, a large negative number at padding), lengths:NAME (tokens per row, [batch]),
            ones (every position is a token), or pad:ID (tokens are the ids other than ID). Default: the attention mask
            input.
        ids: The input with the token ids. Default: input_ids.
        output_name: The name of the result.
        token_weights: The name of the weights [batch, seq] in the graph. A later add-pooling divides means by their
            sum.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, a new one.

    Raises:
        FolderError, MaskError, NothingToPoolError, NameNotFoundError, RequestError, UnsupportedModelError,
            WeightsDifferError.
    """

def drop_input(
    model: Loadable,
    input: str,
    *,
    fill: str | None = None,
    like: str | None = None,
) -> Model:
    """Take an input away that is always the same: the graph makes it, in the shape of another input ``[batch, seq]``.

    ``token_type_ids`` become zeros, a mask ones (every position is a token), ``position_ids`` 0, 1, ..., seq - 1 in every row.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        input: The input to remove.
        fill: The values that the graph puts in its place. Default: as the input's name says.
        like: The input whose shape the values get. Default: the token ids.

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

def dynamic_dim(
    model: Loadable,
    dims: Sequence[str] | Mapping[str, str],
) -> Model:
    """Let a batch or sequence size that an export baked in be any size again.

    The declared dims change, and with them what can be told from where the size stands: shapes to reshape and expand to,
    positions 0, 1, ..., ends of slices, tables and masks of a length (cut, so that the baked length is the longest). It is done
    only where the model then gives at other sizes what it gives at its own: row by row, shorter texts padded with the mask.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        dims: The size that may vary again, batch or sequence, and a name for the dim.

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, UnsupportedModelError.
    """

def fix_dim(
    model: Loadable,
    dims: Mapping[str, int],
) -> Model:
    """Give symbolic dims a number, wherever they are declared: for runtimes and compilers that want literal shapes.

    No node changes. What is computed at that size is what was computed before; other sizes are no longer taken.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        dims: A symbolic dim and its size.

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, NameNotFoundError.
    """

def input_type(
    model: Loadable,
    to: str,
    *,
    input: Sequence[str] = (),
) -> Model:
    """Take ids, masks and other integer inputs as int32 or int64, whichever the program that feeds them has: a cast inside.

    All inputs ``[batch, seq]`` of the other of the two types, or those named.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        to: The element type to take: int32 or int64.
        input: An input to change. Default: every input [batch, seq] of the other type.

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

def mask_tokens(
    model: Loadable,
    target: str,
    *,
    skip_first: bool = False,
    mask: str | None = None,
    ids: str | None = None,
) -> Model:
    """Set the vectors at padded positions to zero: ``y = x where m, else 0``, ``[batch, seq, dim]`` float32.

    For outputs with a vector, or a weight, per token (late interaction, learned sparse retrieval), so that whoever sums or
    compares them needs no mask. ``--skip-first`` sets that of the first token, such as [CLS], to zero as well.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        target: The output [batch, seq, dim] to mask.
        skip_first: Set the vector of each row's first token to zero as well.
        mask: The mask: an input's name, not:NAME, additive:NAME, lengths:NAME or pad:ID (as in add-pooling). Default:
            the attention mask input.
        ids: The input with the token ids. Default: input_ids.

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, MaskError, NameNotFoundError, UnsupportedModelError.
    """

def optional_input(
    model: Loadable,
    input: str,
    *,
    fill: str | None = None,
    like: str | None = None,
) -> Model:
    """Let an input be left out: a default ``[1, 1]`` of zeros (token types) or ones (a mask) stands for it, and broadcasts.

    Only where the graph takes a default of that shape, which is tried out: what counts or reads the shape of its input does
    not, as a mask that is pooled with. `drop-input` serves those.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        input: The input that callers may leave out.
        fill: The default for callers that leave it out. Default: as the input's name says.
        like: The input whose shape the default stands for. Default: the token ids.

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

def output_precision(
    model: Loadable,
    to: str,
    *,
    ranges: str | os.PathLike[str] | None = None,
    target: str | None = None,
) -> Model:
    """Give the embedding as int8, uint8 (one byte a dim, by each dim's range) or binary, ubinary (one bit a dim, eight a byte).

    As sentence-transformers' ``quantize_embeddings``: ``uint8 = clip(floor((x - min) / step), 0, 255)`` with ``step = (max -
    min) / 255``, 1 where that is 0; ``ubinary = packbits(x > 0)``, the first dim in the highest bit; int8 and binary are those
    less 128. min and max are each dim's smallest and largest value over texts of the kind to be embedded: ``--ranges``, a .npy
    or .json file of ``[2, dim]``.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        to: int8, uint8, binary or ubinary.
        ranges: For int8 and uint8: the min and max of each dim over embeddings of your own, [2, dim], as .npy or .json;
            or a .txt file of 100 or more texts, one per line. Their embeddings then give the ranges. A relative path
            starts at the current folder.
        target: The output to convert. Default: sentence_embedding, else the only float output [batch, dim].

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, WeightsError, NameNotFoundError, UnsupportedModelError.
    """

def rename(
    model: Loadable,
    names: Mapping[str, str] | None = None,
    *,
    dims: Mapping[str, str] | None = None,
) -> Model:
    """Give inputs, outputs and symbolic dims other names, wherever they are used. Nothing is computed otherwise.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        names: An input or output and its new name.
        dims: A symbolic dim and its new name.

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

def strip_head(
    model: Loadable,
) -> Model:
    """Take off every edit that the file records, newest first: what is left is the source file, byte for byte.

    External data that were copied into another folder stay where they are now; then all but their location is as it was.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.

    Returns:
        the edited model, a new one.

    Raises:
        NoHeadError.
    """

def truncate(
    model: Loadable,
    dim: int | str | Sequence[int],
    *,
    target: str | None = None,
    keep_length: bool = False,
) -> Model:
    """Keep the first dims of an embedding and normalise what is left: ``y = x[..., :dim] / max(norm2(x[..., :dim]), 1e-12)``.

    For models trained to be cut (Matryoshka Representation Learning, arXiv 2205.13147). One ``dim`` takes the target's place;
    several become outputs ``<target>_<dim>`` behind it, from one run of the encoder. As sentence-transformers' ``truncate_dim``
    with ``normalize_embeddings``; ``--keep-length`` leaves the vectors as long as the cut made them, as without it.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It stays as it is.
        dim: How many dims to keep. Several numbers, separated by commas, give one output each: <target>_<dim>.
        target: The output to truncate. Default: sentence_embedding, else the only float output [batch, dim].
        keep_length: Do not normalise the shorter vectors.

    Returns:
        the edited model, a new one.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

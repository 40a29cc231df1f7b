# `make generated` writes this file from the edits' declarations. Change those, not this.

import os
from collections.abc import Mapping, Sequence

from graphsurgery.baking.bake import Baked, bake
from graphsurgery.baking.split_towers import SplitTowers, split_towers
from graphsurgery.benchmarking.bench import bench
from graphsurgery.benchmarking.results import Benchmark
from graphsurgery.deploying.deploy import Deployment, deploy
from graphsurgery.edits.add_activation import AddActivation
from graphsurgery.edits.add_cnn import AddCnn
from graphsurgery.edits.add_dense import AddDense
from graphsurgery.edits.add_image_input import AddImageInput
from graphsurgery.edits.add_input import AddInput
from graphsurgery.edits.add_layer_norm import AddLayerNorm
from graphsurgery.edits.add_logit_score import AddLogitScore
from graphsurgery.edits.add_lstm import AddLstm
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.edits.add_splade_pooling import AddSpladePooling
from graphsurgery.edits.add_waveform_normalize import AddWaveformNormalize
from graphsurgery.edits.add_weighted_layer_pooling import AddWeightedLayerPooling
from graphsurgery.edits.add_word_weights import AddWordWeights
from graphsurgery.edits.align_mask import AlignMask
from graphsurgery.edits.drop_input import DropInput
from graphsurgery.edits.dynamic_dim import DynamicDim
from graphsurgery.edits.extract_tower import ExtractTower
from graphsurgery.edits.fix_dim import FixDim
from graphsurgery.edits.input_type import InputType
from graphsurgery.edits.keep_outputs import KeepOutputs
from graphsurgery.edits.mask_tokens import MaskTokens
from graphsurgery.edits.optional_input import OptionalInput
from graphsurgery.edits.output_precision import OutputPrecision
from graphsurgery.edits.relax_dim import RelaxDim
from graphsurgery.edits.rename import Rename
from graphsurgery.edits.strip_head import StripHead
from graphsurgery.edits.tap import Tap
from graphsurgery.edits.truncate import Truncate
from graphsurgery.embedding.embed_file import EmbeddedFile, embed_file
from graphsurgery.embedding.embedder import Embedded, Embedder, TruncationWarning
from graphsurgery.errors import GraphSurgeryError, VerificationFailed
from graphsurgery.exporting.export_folder import Exported, export
from graphsurgery.fixing.fix import Fixed, fix
from graphsurgery.inspection import Inspection, inspect
from graphsurgery.interface import Interface, Value
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model
from graphsurgery.model.saving import save
from graphsurgery.model.staging import Saved
from graphsurgery.optimizer.optimize import optimize
from graphsurgery.optimizer.quantize import quantize
from graphsurgery.outcome import Optimized, Outcome
from graphsurgery.proof.golden import verify_itself
from graphsurgery.proof.verify import verify
from graphsurgery.recipe import Recipe
from graphsurgery.recipe_run import run_recipe
from graphsurgery.report import Report, Verdict
from graphsurgery.rewrites.compute_pooled_token import PooledToken
from graphsurgery.rewrites.convert_to_half import Half
from graphsurgery.rewrites.fuse_attention import FuseAttention
from graphsurgery.rewrites.fuse_encoder import Fuse
from graphsurgery.rewrites.fuse_rotary import FuseRotary
from graphsurgery.rewrites.pack_tokens import PaddingFree
from graphsurgery.rewrites.quantize_encoder import Quantize
from graphsurgery.rewrites.reattach_head import ReattachHead
from graphsurgery.rewrites.simplify_encoder import Simplify
from graphsurgery.runner import run
from graphsurgery.runtime.batches import plan
from graphsurgery.version import __version__

__all__ = [
    "AddActivation",
    "AddCnn",
    "AddDense",
    "AddImageInput",
    "AddInput",
    "AddLayerNorm",
    "AddLogitScore",
    "AddLstm",
    "AddNormalize",
    "AddPooling",
    "AddSpladePooling",
    "AddWaveformNormalize",
    "AddWeightedLayerPooling",
    "AddWordWeights",
    "AlignMask",
    "Baked",
    "Benchmark",
    "Deployment",
    "DropInput",
    "DynamicDim",
    "Embedded",
    "EmbeddedFile",
    "Embedder",
    "Exported",
    "ExtractTower",
    "FixDim",
    "Fixed",
    "Fuse",
    "FuseAttention",
    "FuseRotary",
    "GraphSurgeryError",
    "Half",
    "InputType",
    "Inspection",
    "Interface",
    "KeepOutputs",
    "MaskTokens",
    "Model",
    "Optimized",
    "OptionalInput",
    "Outcome",
    "OutputPrecision",
    "PaddingFree",
    "PooledToken",
    "Quantize",
    "ReattachHead",
    "Recipe",
    "RelaxDim",
    "Rename",
    "Report",
    "Saved",
    "Simplify",
    "SplitTowers",
    "StripHead",
    "Tap",
    "Truncate",
    "TruncationWarning",
    "Value",
    "Verdict",
    "VerificationFailed",
    "__version__",
    "add_activation",
    "add_cnn",
    "add_dense",
    "add_image_input",
    "add_input",
    "add_layer_norm",
    "add_logit_score",
    "add_lstm",
    "add_normalize",
    "add_pooling",
    "add_splade_pooling",
    "add_waveform_normalize",
    "add_weighted_layer_pooling",
    "add_word_weights",
    "align_mask",
    "bake",
    "bench",
    "deploy",
    "drop_input",
    "dynamic_dim",
    "embed_file",
    "export",
    "extract_tower",
    "fix",
    "fix_dim",
    "input_type",
    "inspect",
    "keep_outputs",
    "load",
    "mask_tokens",
    "optimize",
    "optional_input",
    "output_precision",
    "plan",
    "quantize",
    "relax_dim",
    "rename",
    "run",
    "run_recipe",
    "save",
    "split_towers",
    "strip_head",
    "tap",
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
    """Append an activation to an output: ``y = activation(x)``, float32. It turns a cross-encoder's logits into scores.

    It does what ``activation_fn`` does in sentence-transformers' CrossEncoder: by default sigmoid for one label and identity
    for several, unless the model's config names another. The activation is torch.nn's, with its defaults. Softmax, softmin and
    log-softmax are computed over the last dim of ``[batch, dim]``.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        activation: The activation, as torch.nn names it: sigmoid, softmax, tanh, ...
        target: The output to work on. Default: sentence_embedding, else the only float output [batch, dim].
        output_name: The name of the result. Default: the target's name.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, as a new object.

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

    Each kernel gives ``y[t] = b + sum over j of W[:, :, j] x[t + j - (size - 1) / 2]``, where x is 0 before the first position
    and after the last. The results of the kernels are concatenated. W ``[out, in, size]`` and b ``[out]`` are
    ``convs.<i>.weight`` and ``convs.<i>.bias`` of a model folder's CNN module. The result equals that of sentence-transformers'
    CNN module, which also convolves over the values at padded positions, so a token near padding depends on them. Kernels of
    even size are refused because they shorten the sequence.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        weights: The CNN module's folder, or its model.safetensors or pytorch_model.bin: convs.<i>.weight [out, in,
            size] and convs.<i>.bias [out]. A relative path starts at the current folder.
        target: The token embeddings. Default: the hidden state found in the graph.
        output_name: The name of the result.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, as a new object.

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
    layer: str | None = None,
) -> Model:
    """Append a linear layer with an activation: ``y = activation(x Wt + b)``, ``[..., in]`` -> ``[..., out]`` float32.

    W ``[out, in]`` and b ``[out]`` are ``linear.weight`` and ``linear.bias`` of a model folder's Dense module, read without
    PyTorch; with a layer they are its ``weight`` and ``bias`` in the weights of a whole model. The result equals that of
    sentence-transformers' Dense module; with a residual, that of PyLate's: ``y = activation(x Wt + b) + x``, or ``+ x Rt`` if
    the file has R ``[out, in]``, ``residual.weight``.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        weights: The Dense module's folder, or its model.safetensors or pytorch_model.bin: linear.weight [out, in] and,
            if there is one, linear.bias [out]. A relative path starts at the current folder.
        activation: The activation, as torch.nn names it: tanh, gelu, ... Default: the one in the config.json beside the
            weights, else none.
        residual: Add the input to the result, multiplied by residual.weight if the file has one. Default: as the
            config.json says.
        target: The output to work on. With --keep-target it may be a value inside the graph, [batch, seq, dim].
            Default: sentence_embedding, else the only float output [batch, dim].
        output_name: The name of the result. Default: the target's name.
        keep_target: Keep the target as an output as well.
        layer: The layer's name in a weights file of a whole model, such as classifier.out_proj. Default: the file holds
            this layer alone.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, FolderError, WeightsError, NameNotFoundError, UnsupportedModelError, WeightsDifferError.
    """

def add_image_input(
    model: Loadable,
    config: str | os.PathLike[str] | None = None,
    *,
    input: str | None = None,
    name: str = "images",
    device: str = "cpu",
    clamp: bool = False,
) -> Model:
    """Take pictures of any size as ``images`` uint8 ``[batch, height, width, 3]`` and process them in the graph.

    The colours are red, green and blue. The new input takes the place of the pixels ``[batch, 3, H, W]``. The graph resizes,
    crops around the centre, rescales and normalises as the config of the model's image processor says, with Pillow's two-pass
    algorithm: equal to transformers' slow processors with Pillow 12 or older, apart from single levels of 255 where a sum is
    very near to a half. One batch has pictures of one size. Opset 18 or newer resizes with ONNX's Resize; older opsets, lanczos
    and CUDA resize with matrix products.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        config: The config of the image processor, preprocessor_config.json or processor_config.json. A relative path
            starts at the current folder. Default: the one beside the model or in the folder above.
        input: The input of pixels, [batch, 3, height, width]. Default: the only one.
        name: The name of the new input.
        device: Where the file will run. On cuda, ONNX Runtime resizes bicubic pictures wrongly, so the file uses matrix
            products.
        clamp: Cut the pixels to the range that the processor can give, (0 - mean) / std to (1 - mean) / std of each
            channel. This changes no pixel of a picture; other programs can read the range from the graph.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, FolderError, NameNotFoundError, UnsupportedModelError.
    """

def add_input(
    model: Loadable,
    input: str,
    *,
    like: str | None = None,
    to: str | None = None,
) -> Model:
    """Take an input and ignore it, for programs that always feed it: ``token_type_ids`` for a model that has none.

    The input comes after all others. No node reads it.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        input: The name of the new input.
        like: The input whose dims and type it gets. Default: the token ids.
        to: Its element type. Default: the type of that input.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

def add_layer_norm(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    target: str | None = None,
    layer: str | None = None,
) -> Model:
    """Append layer normalisation: ``y = (x - mean) / sqrt(var + 1e-5) * scale + shift`` over the last dim, float32.

    scale and shift ``[dim]`` are ``norm.weight`` and ``norm.bias`` of a model folder's LayerNorm module. With a layer they are
    its ``weight`` and ``bias`` in the weights of a whole model; without a bias the shift is 0. The result equals that of
    sentence-transformers' LayerNorm module and of torch.nn.LayerNorm (arXiv 1607.06450).

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        weights: The LayerNorm module's folder, or its weights file: norm.weight and norm.bias, [dim] each. A relative
            path starts at the current folder.
        target: The output to work on. Default: sentence_embedding, else the only float output [batch, dim].
        layer: The layer's name in a weights file of a whole model, such as classifier.out_proj. Default: the file holds
            this layer alone.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, WeightsError, NameNotFoundError, UnsupportedModelError.
    """

def add_logit_score(
    model: Loadable,
    true_token: int | str,
    *,
    false_token: int | str | None = None,
    target: str | None = None,
    mask: str | None = None,
    ids: str | None = None,
    output_name: str = "scores",
    keep_output: Sequence[str] = (),
) -> Model:
    """Append the score of a reranker that answers yes or no: ``x [batch, seq, vocabulary]`` -> ``scores [batch, 1]`` float32.

    The score is ``x[last, true] - x[last, false]``, the log-odds of the two tokens as the continuation of the text. Without a
    false token it is ``x[last, true]``. The result equals that of sentence-transformers' LogitScore module (version 6), except
    for padding: that module reads the last position, and so needs padding on the left; this edit reads the last token,
    whichever side is padded. A row without any token gives 0.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        true_token: The id of the token that means yes.
        false_token: The id of the token that means no.
        target: The logits. Default: logits, else the only output as wide as the vocabulary.
        mask: The mask: an input's name (a token is where it is not 0), not:NAME or padded:NAME (a token is where it is
            0), additive:NAME (0 at tokens, a large negative number at padding), lengths:NAME (tokens per row, [batch]),
            ones (every position is a token), or pad:ID (tokens are the ids other than ID). Default: the attention mask
            input.
        ids: The input with the token ids. Default: input_ids.
        output_name: The name of the score.
        keep_output: An output of the encoder to keep. The others are dropped.

    Returns:
        the edited model, as a new object.

    Raises:
        AlreadyAppliedError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError, RequestError.
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

    Each position computes, from the state h and the cell c of the previous one (0 at first):
    ``i, f, o = sigmoid(W x + b + R h + d)`` and ``g = tanh(W x + b + R h + d)``, each with its own weights; then
    ``c = f c + i g`` and ``h = o tanh(c)``, in float32. Each layer reads the one below. A second direction starts at a row's
    last token, and its h are concatenated to those of the first. The weights are those of a model folder's LSTM module. The
    result equals that of sentence-transformers' LSTM module with pack_padded_sequence: a row is as long as it has tokens, at
    least 1, and starts at position 0, so padding has to be on the right. Zeros follow after a row's length.
    (sentence-transformers cuts the result to the longest row; this edit does not.)

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        weights: The LSTM module's folder, or its model.safetensors or pytorch_model.bin: encoder.weight_ih_l0 [4H, in]
            and so on, as torch.nn.LSTM names them. A relative path starts at the current folder.
        target: The token embeddings. Default: the hidden state found in the graph.
        mask: The mask, which gives each row's length: an input's name, not:NAME, additive:NAME, lengths:NAME, ones, or
            pad:ID (as in add-pooling). Default: the attention mask input.
        ids: The input with the token ids. Default: input_ids.
        output_name: The name of the result.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, as a new object.

    Raises:
        WeightsError, FolderError, MaskError, NothingToPoolError, NameNotFoundError, RequestError,
            UnsupportedModelError, WeightsDifferError.
    """

def add_normalize(
    model: Loadable,
    target: str | None = None,
    *,
    again: bool = False,
) -> Model:
    """Append L2 normalisation to an embedding output: ``y = x / max(norm2(x), 1e-12)`` over the last dim, float32.

    The output keeps its name and its place. The old value gets a new name inside the graph. Token embeddings
    ``[batch, seq, dim]`` are normalised token by token. The result equals that of sentence-transformers' Normalize module and
    of ``torch.nn.functional.normalize``.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        target: The output to normalise. Default: sentence_embedding, else the only float output [batch, dim].
        again: Normalise vectors that have length one already, which changes nothing but rounding.

    Returns:
        the edited model, as a new object.

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
    replace: bool = False,
    weights_from: str | None = None,
    lengths: bool = False,
    padding: str | None = None,
) -> Model:
    """Append pooling, and on request L2 normalisation: ``[batch, seq, dim]`` -> ``sentence_embedding [batch, dim]`` float32.

    The formulas are those of sentence-transformers' Pooling module (see `pooling_graph`), with two exceptions: rows without any
    token give zeros, and padded positions never contribute. The head computes in float32, whatever the encoder's type is.

    The tokens of speech are frames. If lengths or a mask of samples tell which frames are padding, they are left out of pooling
    and, unless padding says otherwise, of everything in the encoder that would carry them into a clip's own frames.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        mode: Pooling mode: cls, mean, max, mean_sqrt_len_tokens, weightedmean, lasttoken, statistics, or auto (read the
            folder's 1_Pooling/config.json). Several modes, separated by commas, are concatenated in that order.
        normalize: Append L2 normalisation as well.
        hidden_state: The value to pool: [batch, seq, dim] in float32, float16, bfloat16 or float64. Default: the hidden
            state found in the graph.
        mask: The mask: an input's name (a token is where it is not 0), not:NAME or padded:NAME (a token is where it is
            0), additive:NAME (0 at tokens, a large negative number at padding), lengths:NAME (tokens per row, [batch]),
            ones (every position is a token), or pad:ID (tokens are the ids other than ID). Default: the attention mask
            input.
        ids: The input with the token ids. Default: input_ids.
        output_name: The name of the embedding.
        keep_output: An output of the encoder to keep. The others are dropped.
        token_weights: The weights [batch, seq] by which the tokens were multiplied. Means divide by their sum. Default:
            those of a recorded add-word-weights.
        skip_prompt: Leave out the prompt: N positions from each row's first token on, as sentence-transformers does if
            a config says include_prompt: false. With input, a new input prompt_length (int64 [1]) gives N.
        replace: Put this head in place of the one that another program exported.
        weights_from: For weightedmean, where the positions count from that weigh the tokens: each row's first token
            (first, as sentence-transformers 6 does), or the first position (absolute, as older versions do). The two
            differ with padding in front. Default: first.
        lengths: For speech: take the number of samples of each clip as a new input input_lengths, int64 [batch], and
            pool the frames of these samples alone.
        padding: For speech, what padding behind a clip may change: nothing (exact: a clip's vector is that of the clip
            alone), or what it changes in transformers' own models (transformers). Default: exact.

    Returns:
        the edited model, as a new object.

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

    The result is the max over the tokens, or the sum, of ``log(1 + relu(x))``, or of ``log(1 + log(1 + relu(x)))`` with
    ``--activation log1p_relu``. The result equals that of sentence-transformers' SpladePooling module (arXiv 2109.10086,
    2504.14839), except that padded positions never contribute, whatever their values are. A row without any token gives zeros.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        strategy: How the tokens are combined: max or sum.
        activation: relu for log(1 + relu(x)), log1p_relu for log(1 + log(1 + relu(x))).
        target: The scores. Default: logits, else the only output as wide as the vocabulary.
        mask: The mask: an input's name (a token is where it is not 0), not:NAME or padded:NAME (a token is where it is
            0), additive:NAME (0 at tokens, a large negative number at padding), lengths:NAME (tokens per row, [batch]),
            ones (every position is a token), or pad:ID (tokens are the ids other than ID). Default: the attention mask
            input.
        ids: The input with the token ids. Default: input_ids.
        output_name: The name of the embedding.
        keep_output: An output of the encoder to keep. The others are dropped.

    Returns:
        the edited model, as a new object.

    Raises:
        AlreadyAppliedError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError, RequestError.
    """

def add_waveform_normalize(
    model: Loadable,
    input: str | None = None,
    *,
    mask: str | None = None,
) -> Model:
    """Normalise each clip inside the graph: ``y = (x - mean) / sqrt(var + 1e-7)``, ``[batch, samples]``, computed in float64.

    mean and var (the population's) are those of a clip's own samples: all of a row, or those that a mask or lengths in samples
    tell. Samples of padding become 0, and so does a silent clip. The result equals that of transformers'
    Wav2Vec2FeatureExtractor with ``do_normalize`` on each clip alone. Callers then feed the sound as it is, at the model's
    sampling rate.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        input: The input that holds waveforms. Default: the only one that holds them.
        mask: Which samples are a clip's own: lengths:NAME (samples of each clip, [batch]), NAME (not 0 there), not:NAME
            (0 there) or ones (all). Default: input_lengths, else the attention mask if it counts samples, else all.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, MaskError, NameNotFoundError, AlreadyAppliedError, UnsupportedModelError.
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

    ``y = sum(w_i x_i) / sum w`` over the hidden layers from ``layer_start`` on; layer 0 is the embeddings' output. w is
    ``layer_weights`` of a model folder's WeightedLayerPooling module. The result equals that of sentence-transformers' module
    on transformers' hidden states. The layers are the outputs named ``hidden_states.<n>`` if the export has them, else they are
    found by the graph's structure.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        weights: The WeightedLayerPooling module's folder: its config.json and layer_weights [layers]. A relative path
            starts at the current folder.
        layers: The names of all hidden layers, the output of the embeddings first. Default: the hidden layers found in
            the graph.
        before_norm: Take the last hidden layer before the encoder's final normalisation.
        target: The last hidden state, an output. Default: the hidden state found in the graph.
        output_name: The name of the result.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, as a new object.

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
    """Multiply each token embedding by the weight of its word: ``x [batch, seq, dim]`` -> ``token_embeddings`` float32.

    ``y = x w``, where w is the weight of the token's id, and 0 at padding. The weights (for example idf) come from the
    config of a model folder's WordWeights module, as in sentence-transformers: the weight of the word, else of the word in
    lower case, else ``unknown_word_weight``. The graph keeps w as the value ``token_weights [batch, seq]``, and a later pooling
    divides means by its sum instead of the number of tokens. Ids beyond the config's vocabulary count as unknown words.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        weights: The WordWeights module's folder, or its config.json. A relative path starts at the current folder.
        target: The token embeddings. Default: the hidden state found in the graph.
        mask: The mask: an input's name (a token is where it is not 0), not:NAME or padded:NAME (a token is where it is
            0), additive:NAME (0 at tokens, a large negative number at padding), lengths:NAME (tokens per row, [batch]),
            ones (every position is a token), or pad:ID (tokens are the ids other than ID). Default: the attention mask
            input.
        ids: The input with the token ids. Default: input_ids.
        output_name: The name of the result.
        token_weights: The name of the weights [batch, seq] in the graph. A later add-pooling divides means by their
            sum.
        keep_target: Keep the target as an output as well.

    Returns:
        the edited model, as a new object.

    Raises:
        FolderError, MaskError, NothingToPoolError, NameNotFoundError, RequestError, UnsupportedModelError,
            WeightsDifferError.
    """

def align_mask(
    model: Loadable,
) -> Model:
    """Let a mask of frames hide frames: ``Where(mask [batch, frames], a, b)`` with a or b ``[batch, frames, channels]``.

    ONNX aligns shapes at their ends, so such a node reads the mask as ``[1, frames, channels]``. It fails in most runs; with as
    many frames as channels it runs, and hides channels. fairseq's ``x[padding_mask] = 0`` is exported in this form. The edit
    puts an Unsqueeze before the condition: ``[batch, frames, 1]``. The nodes are found by their ranks and by runs. The proof
    computes each of them in numpy, between the parts of the source before it and after it.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.

    Returns:
        the edited model, as a new object.

    Raises:
        UnsupportedModelError, RequestError.
    """

def drop_input(
    model: Loadable,
    input: str,
    *,
    fill: str | None = None,
    like: str | None = None,
    value: int | float | bool | str | None = None,
) -> Model:
    """Remove inputs that are always the same. The graph computes them, in the shape of another input ``[batch, seq]``.

    ``token_type_ids`` become zeros, a mask becomes ones (every position is a token), and ``position_ids`` become 0, 1, ...,
    seq - 1 in every row. A decoder's caches become empty, ``[batch, heads, 0, dim]``; what it gives as new caches stays. A flag
    or a task becomes the number of ``--value``.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        input: The input to remove, or a pattern that several match, such as 'past_key_values.*'.
        fill: The values that the graph puts in its place. Default: as the input's name says.
        like: The input whose shape or batch size the values get. Default: the token ids.
        value: A number that the graph puts in its place, or true or false.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

def dynamic_dim(
    model: Loadable,
    dims: Sequence[str] | Mapping[str, str],
) -> Model:
    """Let a batch or sequence size that an export baked in be any size again.

    The declared dims change, and so do the constants that hold the size: shapes for Reshape and Expand, positions 0, 1, ...,
    ends of slices, coordinates for GatherND, and tables and masks of that length. Shapes are computed from the input's, as
    exporters do. Tables are cut, so the baked length remains the longest. The edit is refused unless a trial shows that the
    model gives the same numbers at other sizes as at its own, where it runs row by row and shorter texts are padded with the
    mask.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        dims: The size that may vary again, batch or sequence, and a name for the dim.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, UnsupportedModelError.
    """

def extract_tower(
    model: Loadable,
    tower: str,
    *,
    target: str | None = None,
) -> Model:
    """Take one tower out of a joint model of texts and pictures (CLIP, Chinese-CLIP, SigLIP): its embedding ``[batch, dim]``
    and the inputs, nodes and weights that this needs. Everything else is dropped.

    If the graph normalises the embedding, the output is the vector below that normalisation, so that `add-normalize` puts ours
    in its place. The output keeps its name; its batch dim is that of the tower's input. The record holds the scale and the bias
    by which the joint model makes similarities of both embeddings, ``logits = scale * (text . image) + bias``, if the graph
    shows them.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        tower: The tower to take.
        target: The tower's embedding. Default: the output of that tower from which the logits are computed.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

def fix_dim(
    model: Loadable,
    dims: Mapping[str, int],
) -> Model:
    """Give symbolic dims a number, wherever they are declared: for runtimes and compilers that want literal shapes.

    No node changes. At that size the model computes what it computed before. It no longer accepts other sizes.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        dims: A symbolic dim and its size.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, NameNotFoundError.
    """

def input_type(
    model: Loadable,
    to: str,
    *,
    input: Sequence[str] = (),
) -> Model:
    """Take ids, masks and other integer inputs as int32 or int64, or float16 inputs as float32.

    A Cast inside the graph converts them to their old type.

    This applies to all inputs ``[batch, seq]`` of the other integer type, to all float16 inputs that are not caches, or to the
    named ones.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        to: The element type to take: int32, int64 or float32.
        input: An input to change. Default: every input [batch, seq] of the other type, or every float16 input but
            caches.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

def keep_outputs(
    model: Loadable,
    names: Sequence[str],
) -> Model:
    """Keep the named outputs, in the order in which they are named, and drop all others.

    No node changes. ONNX Runtime leaves out the nodes that no output needs any more.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        names: An output to keep, or a pattern that several match, such as 'present.*'.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, NameNotFoundError, AlreadyAppliedError.
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

    For outputs with one vector or weight per token (late interaction, learned sparse retrieval): a program that sums or
    compares them then needs no mask. ``--skip-first`` also sets the vector of the first token, such as [CLS], to zero.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        target: The output [batch, seq, dim] to mask.
        skip_first: Set the vector of each row's first token to zero as well.
        mask: The mask: an input's name, not:NAME, additive:NAME, lengths:NAME or pad:ID (as in add-pooling). Default:
            the attention mask input.
        ids: The input with the token ids. Default: input_ids.

    Returns:
        the edited model, as a new object.

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
    """Let callers leave an input out. Its default ``[1, 1]``, 0 (token types) or 1 (a mask), broadcasts to the input's shape.

    A trial shows whether the graph accepts a default of that shape. A graph that counts the input's elements or reads its shape
    does not, for example one that pools with the mask, or a dynamo export. There, Expand gives the input the shape of the token
    ids first.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        input: The input that callers may leave out.
        fill: The default for callers that leave it out. Default: as the input's name says.
        like: The input whose shape the default stands for. Default: the token ids.

    Returns:
        the edited model, as a new object.

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
    """Give the embedding in fewer bits: int8 or uint8 (one byte per dim), binary or ubinary (one bit per dim, eight to a byte).

    The result equals that of sentence-transformers' ``quantize_embeddings``: ``uint8 = clip(floor((x - min) / step), 0,
    255)`` with ``step = (max - min) / 255``, or 1 if that is 0; ``ubinary = packbits(x > 0)``, with the first dim in the
    highest bit. int8 and binary are these minus 128. min and max are the smallest and largest value of each dim over texts of
    the kind to be embedded. They come from ``--ranges``, a .npy or .json file of ``[2, dim]``.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        to: int8, uint8, binary or ubinary.
        ranges: For int8 and uint8: the min and max of each dim over embeddings of your own, [2, dim], as .npy or .json;
            or a .txt file of 100 or more texts, one per line. Their embeddings then give the ranges. A relative path
            starts at the current folder.
        target: The output to convert. Default: sentence_embedding, else the only float output [batch, dim].

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, WeightsError, NameNotFoundError, UnsupportedModelError.
    """

def relax_dim(
    model: Loadable,
    dims: Sequence[str] | Mapping[str, str] = (),
) -> Model:
    """Declare the batch, the length of a waveform, or the height and width of pictures free, where the nodes take any size.

    Only declared dims change, and no node: some exports bind inputs to the sizes of the example that they were traced with,
    although nothing inside depends on them. A size is freed after runs at two other sizes. In another batch, each row must give
    what it gives at the declared size. At another length, height or width the model has to run, with rows that do not depend on
    each other; no run can tell whether the model gives good results on such pictures. For texts, see `dynamic-dim`, which also
    replaces sizes inside the graph.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        dims: A size to free, and a name for the dim. Default: every fixed size that the nodes take at other sizes.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, UnsupportedModelError.
    """

def rename(
    model: Loadable,
    names: Mapping[str, str] | None = None,
    *,
    dims: Mapping[str, str] | None = None,
) -> Model:
    """Give inputs, outputs and symbolic dims other names, wherever they are used. The model computes the same.

    All names change at once, so two values may get each other's name: ``--name a=b --name b=a``. Two dims may get the same name
    if no input or output has both. That declares them equal: PyTorch gives the batch of each input a name of its own
    (``--dim s18=batch --dim s43=batch``).

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        names: An input or output and its new name.
        dims: A symbolic dim and its new name.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

def strip_head(
    model: Loadable,
) -> Model:
    """Undo every edit that graphsurgery recorded in the file, newest first. The result is the file before them, byte for byte.

    If the weights were copied to a data file in another folder, they stay there. In that case everything except their location
    is restored.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.

    Returns:
        the edited model, as a new object.

    Raises:
        NoHeadError, UnsupportedModelError.
    """

def tap(
    model: Loadable,
    layer: int | str,
    *,
    norm: str | None = None,
    target: str | None = None,
) -> Model:
    """Give a hidden layer in place of the last hidden state: ``last_hidden_state [batch, seq, hidden]`` becomes layer N.

    The layers above it and their weights leave the file, and so do all other outputs. Layers are counted as in transformers'
    ``hidden_states``: 0 is the embeddings' output, N the output of the Nth layer, and -1 the last one. This is fairseq's
    ``output_layer`` N as well. The layers are found by the graph's structure, in plain and in fused graphs.

    Pre-norm encoders normalise the last layer's output once more. For pictures and for the text towers of CLIP and SigLIP, the
    last of transformers' ``hidden_states`` is the value before that normalisation. For other texts and for speech, it is the
    value after it. ``--norm`` overrides this choice.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        layer: The number of the hidden layer, from 0 (the embeddings). Negative numbers count from the end.
        norm: At the last layer: its output `before` the encoder's final normalisation, or `after` it. Default: as
            transformers gives it.
        target: The last hidden state, an output. Default: the hidden state found in the graph.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, AlreadyAppliedError, NothingToPoolError, NameNotFoundError, UnsupportedModelError.
    """

def truncate(
    model: Loadable,
    dim: int | str | Sequence[int],
    *,
    target: str | None = None,
    keep_length: bool = False,
) -> Model:
    """Keep the first dims of an embedding and normalise them: ``y = x[..., :dim] / max(norm2(x[..., :dim]), 1e-12)``.

    For models trained to be truncated (Matryoshka Representation Learning, arXiv 2205.13147). With one ``dim`` the result
    replaces the target. With several, they become outputs ``<target>_<dim>`` after it, from one run of the encoder. The result
    equals that of sentence-transformers' ``truncate_dim`` with ``normalize_embeddings``; with ``--keep-length``, nothing is
    normalised.

    Args:
        model: the model to edit: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model. It is not changed.
        dim: How many dims to keep. Several numbers, separated by commas, give one output each: <target>_<dim>.
        target: The output to truncate. Default: sentence_embedding, else the only float output [batch, dim].
        keep_length: Do not normalise the shorter vectors.

    Returns:
        the edited model, as a new object.

    Raises:
        RequestError, NameNotFoundError, UnsupportedModelError.
    """

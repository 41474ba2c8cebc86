"""Fuse the peak rule into a model's graph, which then outputs nuclei instead of maps, for hosts in any language.

The fused model outputs exactly the detections of :func:`kinet_trt.peaks.reference.find_peaks`. The graph uses neither
NonZero, CumSum nor scatter operations: TensorRT for RTX lacks NonZero, several releases of TensorRT compute CumSum
incorrectly, and the result of two scattered writes to one element is undefined.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kinet_trt.core.errors import EngineError, KinetError
from kinet_trt.models.model import Model

if TYPE_CHECKING:
    import onnx

CAPACITY = 8192
"""Default capacity of a fused model, nuclei per frame; a dense 1920 x 1080 px field contains over 5,000."""
MAX_CAPACITY = 1 << 16
OPSET = 18

# Comparison. v(p) is the largest of the class maps at pixel p, ignoring NaN; -inf if all are NaN. Let r be the radius.
# In the window around p, `left` and `right` are the maxima of the r pixels on either side in p's row, `above` and
# `below` those of the r rows on either side. In raster order, left and above come before p, right and below after it.
# The rule requires v(p) > v(q) for each q in the window before p, and v(p) >= v(q) for each q after p. Hence
#
#     p is a nucleus  <=>  v(p) > max(left, above)  and  v(p) >= max(right, below, threshold).
#
# This depends on v alone, not on which other pixels are nuclei, and resolves ties in the same pass. Pixels outside the
# image, and pixels that are NaN in all channels, have v = -inf: they suppress nothing and fail the first comparison.
#
# Compaction. Two nuclei are never within r of each other: the rule would require that the later one is higher than the
# earlier one and that the earlier one is at least as high as the later one, a contradiction. A block of (r + 1) x (r +
# 1) px therefore contains at most one, and the maximum over a block keeps it: one value per 36 pixels at r = 5. A band
# is one row of blocks, r + 1 pixel rows over the whole width. Bands follow each other in raster order, so sorting the
# blocks of each band by the raster position of their nucleus sorts all nuclei. TopK sorts one element per block of a
# band, W / (r + 1); TensorRT allows up to 3,840. The pooled value encodes the position in the block: the number of
# pixels from the nucleus to the end of the block, 0 without a nucleus. It is a float, since not every runtime pools
# integers, but at most (r + 1)^2, which half precision represents exactly up to r = 44. All other positions are int32
# until the output.
#
# Output. Slot k is row k of the output and contains nucleus k in raster order. The cumulative
# number of nuclei after each band gives the slot where the band ends. The index of k's band is the number of bands that
# end at or before k; its rank within the band is k minus the number of nuclei in the bands before.
#
# Suffixes: _f float, _i int32, _64 int64, _1 one-element shape (but axis_1 is axis 1), _c and _r column and row for
# broadcasting.
_PEAKS = """<ir_version: 8, opset_import: ["": {opset}]>
peaks (float[N,{classes},H,W] maps, float[1] threshold) => (int32[N] count, float[N,{capacity},4] detections)
<
    float lowest = {{-inf}}, float no_nucleus = {{0}}, float unused = {{-1}},
    float[1,{classes},1] channel = {{{channels}}}, float no_channel = {{{classes}}},
    int32 zero = {{0}}, int32 one = {{1}}, int32 block = {{{block}}}, int32 block_area = {{{block_area}}},
    int32 capacity = {{{capacity}}},
    int64[1] axis_1 = {{1}}, int64[1] axis_2 = {{2}}, int64[1] axis_3 = {{3}},
    int64[8] pad_columns = {{0, 0, 0, {radius}, 0, 0, 0, {radius}}},
    int64[8] pad_rows = {{0, 0, {radius}, 0, 0, 0, {radius}, 0}},
    int64[1] start = {{0}}, int64[1] end = {{{max_index}}},
    int64[1] from_block = {{{block}}}, int64[1] to_block_from_end = {{-{block}}},
    int64[2] flat = {{0, -1}}, int64[3] by_channel = {{0, {classes}, -1}},
    int64[2] v_dims = {{0, 1}}, int64[2] slot_dims = {{{classes}, {capacity}}}
>
{{
    # v: maximum of the channels; computed on a flat axis, because OpenVINO is slow where three channels interleave
    maps_flat = Reshape (maps, by_channel)
    is_nan = IsNaN (maps_flat)
    heights = Where (is_nan, lowest, maps_flat)
    v_flat = ReduceMax <keepdims = 1> (heights, axis_1)
    height_1 = Shape <start = 2, end = 3> (maps)
    width_1 = Shape <start = 3, end = 4> (maps)
    v_shape = Concat <axis = 0> (v_dims, height_1, width_1)
    v = Reshape (v_flat, v_shape)

    # maxima of the four parts of the window
    padded_row = Pad (v, pad_columns, lowest)
    row_max = MaxPool <kernel_shape = [1, {radius}]> (padded_row)
    left = Slice (row_max, start, to_block_from_end, axis_3)
    right = Slice (row_max, from_block, end, axis_3)
    row = Max (left, v, right)
    padded_column = Pad (row, pad_rows, lowest)
    column_max = MaxPool <kernel_shape = [{radius}, 1]> (padded_column)
    above = Slice (column_max, start, to_block_from_end, axis_2)
    below = Slice (column_max, from_block, end, axis_2)
    before = Max (left, above)
    after = Max (right, below, threshold)
    is_greater = Greater (v, before)
    is_not_lower = GreaterOrEqual (v, after)
    is_nucleus = And (is_greater, is_not_lower)

    # code of each nucleus: number of pixels from it to the end of its block, at least 1; 0 if not a nucleus
    height_64 = Squeeze (height_1)
    width_64 = Squeeze (width_1)
    height = Cast <to = 6> (height_64)
    width = Cast <to = 6> (width_64)
    rows = Range (zero, height, one)
    columns = Range (zero, width, one)
    row_in_block = Mod (rows, block)
    column_in_block = Mod (columns, block)
    rows_to_end = Sub (block, row_in_block)
    pixels_to_end = Mul (rows_to_end, block)
    pixels_to_end_f = Cast <to = 1> (pixels_to_end)
    pixels_to_end_c = Unsqueeze (pixels_to_end_f, axis_1)
    column_in_block_f = Cast <to = 1> (column_in_block)
    code_of_position = Sub (pixels_to_end_c, column_in_block_f)
    code_of_pixel = Where (is_nucleus, code_of_position, no_nucleus)

    # key of each block: number of pixels from its nucleus to the end of its band, at least 1; 0 without a nucleus
    blocks = MaxPool
        <kernel_shape = [{block}, {block}], strides = [{block}, {block}], pads = [0, 0, {radius}, {radius}]>
        (code_of_pixel)
    block_codes = Squeeze (blocks, axis_1)
    code = Cast <to = 6> (block_codes)
    has_nucleus = Greater (code, zero)
    bands_1 = Shape <start = 1, end = 2> (code)
    blocks_1 = Shape <start = 2, end = 3> (code)
    bands_64 = Squeeze (bands_1)
    blocks_64 = Squeeze (blocks_1)
    band_count = Cast <to = 6> (bands_64)
    blocks_per_band = Cast <to = 6> (blocks_64)
    index_in_block = Sub (block_area, code)
    row_in_band = Div (index_in_block, block)
    row_start = Mul (row_in_band, block)
    column_of_nucleus = Sub (index_in_block, row_start)
    block_number = Range (zero, blocks_per_band, one)
    block_start = Mul (block_number, block)
    column = Add (block_start, column_of_nucleus)
    row_offset = Mul (row_in_band, width)
    index_in_band = Add (row_offset, column)
    band_area = Mul (block, width)
    key_of_nucleus = Sub (band_area, index_in_band)
    key = Where (has_nucleus, key_of_nucleus, zero)
    sorted, order = TopK (key, blocks_1)

    # number of nuclei in each band, and up to its start and end
    has_nucleus_i = Cast <to = 6> (has_nucleus)
    nuclei_per_band = ReduceSum <keepdims = 0> (has_nucleus_i, axis_2)
    count = ReduceSum <keepdims = 0> (nuclei_per_band, axis_1)
    band = Range (zero, band_count, one)
    band_c = Unsqueeze (band, axis_1)
    is_not_after = LessOrEqual (band, band_c)
    nuclei_per_band_r = Unsqueeze (nuclei_per_band, axis_1)
    nuclei_to_band = Where (is_not_after, nuclei_per_band_r, zero)
    ends = ReduceSum <keepdims = 0> (nuclei_to_band, axis_2)
    starts = Sub (ends, nuclei_per_band)

    # index of the nucleus of each slot in the image; a valid dummy index in unused slots
    slot = Range (zero, capacity, one)
    slot_c = Unsqueeze (slot, axis_1)
    ends_r = Unsqueeze (ends, axis_1)
    is_complete = LessOrEqual (ends_r, slot_c)
    is_complete_i = Cast <to = 6> (is_complete)
    complete_bands = ReduceSum <keepdims = 0> (is_complete_i, axis_2)
    max_band = Sub (band_count, one)
    slot_band = Min (complete_bands, max_band)
    slot_band_start = GatherElements <axis = 1> (starts, slot_band)
    rank = Sub (slot, slot_band_start)
    max_rank = Sub (blocks_per_band, one)
    slot_rank = Min (rank, max_rank)
    band_offset = Mul (slot_band, blocks_per_band)
    slot_key_index = Add (band_offset, slot_rank)
    sorted_flat = Reshape (sorted, flat)
    slot_key = GatherElements <axis = 1> (sorted_flat, slot_key_index)
    count_c = Unsqueeze (count, axis_1)
    is_used = Less (slot, count_c)
    slot_index_in_band = Sub (band_area, slot_key)
    band_start = Mul (slot_band, band_area)
    slot_index = Add (band_start, slot_index_in_band)
    index = Where (is_used, slot_index, zero)

    # x, y, score, class
    y = Div (index, width)
    y_start = Mul (y, width)
    x = Sub (index, y_start)
    x_f = Cast <to = 1> (x)
    y_f = Cast <to = 1> (y)
    frames = Shape <start = 0, end = 1> (maps)
    index_shape = Concat <axis = 0> (frames, slot_dims)
    index_r = Unsqueeze (index, axis_1)
    index_of_channels = Expand (index_r, index_shape)
    slot_heights = GatherElements <axis = 2> (heights, index_of_channels)
    score_r = ReduceMax <keepdims = 1> (slot_heights, axis_1)
    has_score = Equal (slot_heights, score_r)
    scoring_channels = Where (has_score, channel, no_channel)
    class = ReduceMin <keepdims = 0> (scoring_channels, axis_1)
    score = Squeeze (score_r, axis_1)
    x_c = Unsqueeze (x_f, axis_2)
    y_c = Unsqueeze (y_f, axis_2)
    score_c = Unsqueeze (score, axis_2)
    class_c = Unsqueeze (class, axis_2)
    rows_of_nuclei = Concat <axis = 2> (x_c, y_c, score_c, class_c)
    is_used_c = Unsqueeze (is_used, axis_2)
    detections = Where (is_used_c, rows_of_nuclei, unused)
}}"""


def fuse(model: Model, *, capacity: int = CAPACITY, size: tuple[int, int] | None = None) -> Model:
    """Add the peak rule to a model's graph.

    The inputs of the fused model are ``frame``, uint8 [N, H, W, 3], and ``threshold``, float32 [1]. Its outputs are
    ``count``, int32 [N], the number of nuclei even if it exceeds the capacity K, and ``detections``, float32 [N, K, 4]:
    x, y (px of the input frame), score and class of the first K nuclei in raster order, -1 in unused rows. A
    tumour-region map remains an output.

    Parameters
    ----------
    model
        An ONNX model that outputs maps, as ``kinet-trt export`` writes it.
    capacity
        Maximum number of nuclei in one frame, K, 1 to 65,536.
    size
        Height and width of every frame, px; None for any size that the model accepts, multiples of ``card.multiple``.

    Raises
    ------
    MissingExtraError
        If the package ``onnx`` is not installed.
    KinetError
        If the model is already fused or was not exported by kinet-trt, or the capacity or the size is invalid.
    """
    card = model.card
    if card.capacity:
        raise EngineError("the model is already fused. Use the model that outputs maps")
    if not 1 <= capacity <= MAX_CAPACITY:
        raise EngineError(f"capacity: expected 1 to {MAX_CAPACITY} nuclei, found {capacity}")
    if size and any(length < 1 or length % card.multiple for length in size):
        raise EngineError(f"size: expected multiples of {card.multiple} px, found {size[1]} x {size[0]} px")
    fused = model.graph_copy()
    import onnx

    graph, classes = fused.graph, len(card.classes)
    _check_interface(graph, classes)
    # TensorRT accepts uint8 only as input of a Cast. The model's own Cast, later in the graph, becomes a no-op.
    for node in graph.node:
        node.input[:] = ["pixels" if name == "frame" else name for name in node.input]
    graph.node.insert(0, onnx.helper.make_node("Cast", ["frame"], ["pixels"], "pixels", to=onnx.TensorProto.FLOAT))
    text = _PEAKS.format(
        opset=next(entry.version for entry in fused.opset_import if not entry.domain),
        classes=classes,
        channels=", ".join(map(str, range(classes))),
        capacity=capacity,
        radius=card.nms_radius,
        block=card.nms_radius + 1,
        block_area=(card.nms_radius + 1) ** 2,
        max_index=2**63 - 1,
    )
    peaks = onnx.parser.parse_model(text).graph
    for node in peaks.node:
        node.name = node.output[0]
    onnx.compose.add_prefix_graph(peaks, "peaks/", rename_inputs=False, rename_outputs=False, inplace=True)
    other_outputs = [output for output in graph.output if output.name != "maps"]
    frame = graph.input[0].type.tensor_type.shape.dim
    for output in peaks.output:
        output.type.tensor_type.shape.dim[0].CopyFrom(frame[0])
    if size:
        for dims in (frame[1:3], *(output.type.tensor_type.shape.dim[2:] for output in other_outputs)):
            dims[0].dim_value, dims[1].dim_value = size
    graph.node.extend(peaks.node)
    graph.initializer.extend(peaks.initializer)
    graph.input.append(peaks.input[1])
    # The recorded intermediate shapes are those for variable sizes; runtimes infer their own.
    del graph.output[:], graph.value_info[:]
    graph.output.extend([*peaks.output, *other_outputs])
    try:
        return Model.from_graph(fused, replace(card, capacity=capacity))
    except KinetError as error:
        raise EngineError(f"the model cannot be fused ({error}). Export it again with opset {OPSET}") from None


def _check_interface(graph: onnx.GraphProto, classes: int) -> None:
    """Raise an EngineError unless the model's input is ``frame`` and its output ``maps`` of this many classes."""
    from onnx import TensorProto

    inputs, outputs = (
        {value.name: (value.type.tensor_type.elem_type, list(value.type.tensor_type.shape.dim)) for value in values}
        for values in (graph.input, graph.output)
    )
    dtype, shape = inputs.get("frame", (0, []))
    input_ok = list(inputs) == ["frame"] and dtype == TensorProto.UINT8 and len(shape) == 4
    dtype, shape = outputs.get("maps", (0, []))
    output_ok = dtype == TensorProto.FLOAT and len(shape) == 4 and shape[1].dim_value == classes
    if not input_ok or not output_ok:
        raise EngineError(
            "the model cannot be fused: expected the input frame, uint8 [N, H, W, 3], and the output maps, float32 "
            f"[N, {classes}, H, W], found inputs {', '.join(inputs)} and outputs {', '.join(outputs)}. Export the "
            "model with kinet-trt"
        )

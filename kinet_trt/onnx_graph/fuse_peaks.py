"""The peak rule as ONNX nodes: fuse a model that outputs maps into one that outputs nuclei, for hosts in any language.

Returns exactly the detections of :func:`kinet_trt.peaks.reference.find_peaks`. The graph uses neither NonZero, CumSum
nor scatter operations: TensorRT for RTX lacks NonZero, several releases of TensorRT compute CumSum wrongly, and the
result of two writes to one place is undefined.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kinet_trt.core.errors import EngineError, KinetError
from kinet_trt.models.model import Model

if TYPE_CHECKING:
    import onnx

CAPACITY = 8192
"""Default capacity of a fused model, nuclei: a dense 1920 x 1080 px field contains over 5,000."""
MAX_CAPACITY = 1 << 16
OPSET = 18

# Derivation from the rule. v(p) is -inf if no channel is a number. Let r be the radius. In the window around p, `left`
# and `right` are the r pixels on either side in p's row, `above` and `below` the r rows on either side. In raster
# order, left and above come before p, right and below after it. The rule requires for each q in the window:
# v(p) > v(q), or v(p) == v(q) and p comes first. For q before p this means v(p) > v(q), for q after p v(p) >= v(q), so
#
#     p is a nucleus  <=>  v(p) > max(left, above)  and  v(p) >= max(right, below, threshold).
#
# No pixel needs to know whether another is a nucleus, and ties need no second pass. Outside the image v is -inf and
# suppresses nothing. A NaN pixel fails the first comparison, as anything at -inf does, and suppresses nothing.
#
# Compaction. Of two nuclei within r of each other, the later would have to be both higher than the earlier and at most
# as high. So a block of (r + 1) x (r + 1) px contains at most one, and a maximum over each block keeps them all: one
# value per 36 pixels at r = 5. A row of blocks is a band. Bands are in raster order, and sorting the blocks of each
# band by the position of their nucleus puts all nuclei into raster order. TopK sorts as many elements as a band has
# blocks, W / (r + 1); TensorRT allows up to 3,840. The pooled value is the position within the block: a float, since
# not every runtime pools integers, but at most (r + 1)^2, which half precision represents exactly up to r = 44.
# Everything else is int32, so that a runtime that computes in less than FP32 has errors in scores, like the network,
# but not in positions.
#
# Slot k belongs to the band with as many bands before it as end at or before k (found by comparison). Its rank in the
# band is k minus the nuclei of the bands before.
_PEAKS = """<ir_version: 8, opset_import: ["": {opset}]>
peaks (float[N,{classes},H,W] maps, float[1] threshold) => (int32[N] count, float[N,{capacity},4] detections)
<
    float lowest = {{-inf}}, float none = {{0}}, float unused = {{-1}},
    float[1,{classes},1] channel = {{{channels}}}, float no_channel = {{{classes}}},
    int32 zero = {{0}}, int32 one = {{1}}, int32 block = {{{block}}}, int32 places_of_block = {{{places}}},
    int32 capacity = {{{capacity}}},
    int64[1] axis_1 = {{1}}, int64[1] axis_2 = {{2}}, int64[1] axis_3 = {{3}},
    int64[8] at_sides = {{0, 0, 0, {radius}, 0, 0, 0, {radius}}},
    int64[8] at_ends = {{0, 0, {radius}, 0, 0, 0, {radius}, 0}},
    int64[1] start = {{0}}, int64[1] end = {{{farthest}}},
    int64[1] from_block = {{{block}}}, int64[1] but_block = {{-{block}}},
    int64[2] flat = {{0, -1}}, int64[3] by_channel = {{0, {classes}, -1}},
    int64[2] of_v = {{0, 1}}, int64[2] of_slots = {{{classes}, {capacity}}}
>
{{
    # v: the largest number of the channels; pixels in one row, since OpenVINO is slow where three channels interleave
    maps_flat = Reshape (maps, by_channel)
    is_nan = IsNaN (maps_flat)
    heights = Where (is_nan, lowest, maps_flat)
    v_flat = ReduceMax <keepdims = 1> (heights, axis_1)
    height_1 = Shape <start = 2, end = 3> (maps)
    width_1 = Shape <start = 3, end = 4> (maps)
    v_shape = Concat <axis = 0> (of_v, height_1, width_1)
    v = Reshape (v_flat, v_shape)

    # the four parts of the window
    wide = Pad (v, at_sides, lowest)
    runs = MaxPool <kernel_shape = [1, {radius}]> (wide)
    left = Slice (runs, start, but_block, axis_3)
    right = Slice (runs, from_block, end, axis_3)
    row = Max (left, v, right)
    tall = Pad (row, at_ends, lowest)
    falls = MaxPool <kernel_shape = [{radius}, 1]> (tall)
    above = Slice (falls, start, but_block, axis_2)
    below = Slice (falls, from_block, end, axis_2)
    before = Max (left, above)
    after = Max (right, below, threshold)
    is_higher = Greater (v, before)
    is_as_high = GreaterOrEqual (v, after)
    is_nucleus = And (is_higher, is_as_high)

    # code of each nucleus: the places left in its block, at least 1
    height_64 = Squeeze (height_1)
    width_64 = Squeeze (width_1)
    height = Cast <to = 6> (height_64)
    width = Cast <to = 6> (width_64)
    rows = Range (zero, height, one)
    columns = Range (zero, width, one)
    row_in_block = Mod (rows, block)
    column_in_block = Mod (columns, block)
    rows_left = Sub (block, row_in_block)
    left_by_row = Mul (rows_left, block)
    left_by_row_f = Cast <to = 1> (left_by_row)
    left_by_row_c = Unsqueeze (left_by_row_f, axis_1)
    column_in_block_f = Cast <to = 1> (column_in_block)
    code_of_place = Sub (left_by_row_c, column_in_block_f)
    code_of_pixel = Where (is_nucleus, code_of_place, none)

    # blocks; key of each: the places left in its band, at least 1, or 0 without a nucleus
    blocks = MaxPool
        <kernel_shape = [{block}, {block}], strides = [{block}, {block}], pads = [0, 0, {radius}, {radius}]>
        (code_of_pixel)
    bands = Squeeze (blocks, axis_1)
    code = Cast <to = 6> (bands)
    holds = Greater (code, zero)
    down_1 = Shape <start = 1, end = 2> (code)
    across_1 = Shape <start = 2, end = 3> (code)
    down_64 = Squeeze (down_1)
    across_64 = Squeeze (across_1)
    down = Cast <to = 6> (down_64)
    across = Cast <to = 6> (across_64)
    place_in_block = Sub (places_of_block, code)
    row_of_code = Div (place_in_block, block)
    row_at = Mul (row_of_code, block)
    column_of_code = Sub (place_in_block, row_at)
    block_number = Range (zero, across, one)
    block_at = Mul (block_number, block)
    column = Add (block_at, column_of_code)
    before_row = Mul (row_of_code, width)
    before_code = Add (before_row, column)
    places = Mul (block, width)
    places_left = Sub (places, before_code)
    key = Where (holds, places_left, zero)
    sorted, order = TopK (key, across_1)

    # nuclei of each band, and before its end
    holds_i = Cast <to = 6> (holds)
    n = ReduceSum <keepdims = 0> (holds_i, axis_2)
    count = ReduceSum <keepdims = 0> (n, axis_1)
    band = Range (zero, down, one)
    band_c = Unsqueeze (band, axis_1)
    is_not_after = LessOrEqual (band, band_c)
    n_r = Unsqueeze (n, axis_1)
    n_not_after = Where (is_not_after, n_r, zero)
    ends = ReduceSum <keepdims = 0> (n_not_after, axis_2)
    starts = Sub (ends, n)

    # the nucleus of each slot; beyond the last one, any place that exists
    slot = Range (zero, capacity, one)
    slot_c = Unsqueeze (slot, axis_1)
    ends_r = Unsqueeze (ends, axis_1)
    is_past = LessOrEqual (ends_r, slot_c)
    is_past_i = Cast <to = 6> (is_past)
    bands_past = ReduceSum <keepdims = 0> (is_past_i, axis_2)
    last_band = Sub (down, one)
    its_band = Min (bands_past, last_band)
    its_start = GatherElements <axis = 1> (starts, its_band)
    rank = Sub (slot, its_start)
    last_rank = Sub (across, one)
    its_rank = Min (rank, last_rank)
    bands_offset = Mul (its_band, across)
    its_key_at = Add (bands_offset, its_rank)
    sorted_flat = Reshape (sorted, flat)
    its_key = GatherElements <axis = 1> (sorted_flat, its_key_at)
    count_c = Unsqueeze (count, axis_1)
    is_used = Less (slot, count_c)
    place_in_band = Sub (places, its_key)
    band_at = Mul (its_band, places)
    place_or_none = Add (band_at, place_in_band)
    place = Where (is_used, place_or_none, zero)

    # x, y, score, class
    y = Div (place, width)
    y_at = Mul (y, width)
    x = Sub (place, y_at)
    x_f = Cast <to = 1> (x)
    y_f = Cast <to = 1> (y)
    frames = Shape <start = 0, end = 1> (maps)
    place_shape = Concat <axis = 0> (frames, of_slots)
    place_r = Unsqueeze (place, axis_1)
    places_of_channels = Expand (place_r, place_shape)
    its_heights = GatherElements <axis = 2> (heights, places_of_channels)
    score_r = ReduceMax <keepdims = 1> (its_heights, axis_1)
    is_held = Equal (its_heights, score_r)
    holders = Where (is_held, channel, no_channel)
    class = ReduceMin <keepdims = 0> (holders, axis_1)
    score = Squeeze (score_r, axis_1)
    x_c = Unsqueeze (x_f, axis_2)
    y_c = Unsqueeze (y_f, axis_2)
    score_c = Unsqueeze (score, axis_2)
    class_c = Unsqueeze (class, axis_2)
    found = Concat <axis = 2> (x_c, y_c, score_c, class_c)
    is_used_c = Unsqueeze (is_used, axis_2)
    detections = Where (is_used_c, found, unused)
}}"""


def fuse(model: Model, *, capacity: int = CAPACITY, size: tuple[int, int] | None = None) -> Model:
    """Add the peak rule to a model's graph.

    The fused model takes ``frame`` uint8 [N, H, W, 3] and ``threshold`` float32 [1], and returns ``count`` int32 [N],
    the true number of nuclei even if it exceeds the capacity K, and ``detections`` float32 [N, K, 4]: x, y (px of the
    input frame), score and class of the first K in raster order, -1 in unused rows. A tumour-region map remains an
    output.

    Parameters
    ----------
    model
        An ONNX model that outputs maps, as ``kinet-trt export`` writes it.
    capacity
        Maximum number of nuclei in one frame, K, 1 to 65,536.
    size
        Height and width, px, of every frame; None: the sizes that the model accepts, multiples of ``card.multiple``.

    Raises
    ------
    MissingExtraError
        If the package ``onnx`` is not installed.
    KinetError
        If the model is already fused or was not exported by kinet-trt, or capacity or size are invalid.
    """
    card = model.card
    if card.capacity:
        raise EngineError("the model is already fused: expected one that outputs maps")
    if not 1 <= capacity <= MAX_CAPACITY:
        raise EngineError(f"capacity: expected 1 to {MAX_CAPACITY} nuclei, found {capacity}")
    if size and any(side < 1 or side % card.multiple for side in size):
        raise EngineError(f"size: expected multiples of {card.multiple} px, found {size[0]} x {size[1]} (H x W)")
    whole = model.graph_copy()
    import onnx

    graph, classes = whole.graph, len(card.classes)
    _check_interface(graph, classes)
    # TensorRT accepts uint8 only as input of a Cast. The model's own Cast, further on, becomes a no-op.
    for node in graph.node:
        node.input[:] = ["pixels" if name == "frame" else name for name in node.input]
    graph.node.insert(0, onnx.helper.make_node("Cast", ["frame"], ["pixels"], "pixels", to=onnx.TensorProto.FLOAT))
    text = _PEAKS.format(
        opset=next(entry.version for entry in whole.opset_import if not entry.domain),
        classes=classes,
        channels=", ".join(map(str, range(classes))),
        capacity=capacity,
        radius=card.nms_radius,
        block=card.nms_radius + 1,
        places=(card.nms_radius + 1) ** 2,
        farthest=2**63 - 1,
    )
    peaks = onnx.parser.parse_model(text).graph
    for node in peaks.node:
        node.name = node.output[0]
    onnx.compose.add_prefix_graph(peaks, "peaks/", rename_inputs=False, rename_outputs=False, inplace=True)
    others = [output for output in graph.output if output.name != "maps"]
    frame = graph.input[0].type.tensor_type.shape.dim
    for output in peaks.output:
        output.type.tensor_type.shape.dim[0].CopyFrom(frame[0])
    if size:
        for dims in (frame[1:3], *(output.type.tensor_type.shape.dim[2:] for output in others)):
            dims[0].dim_value, dims[1].dim_value = size
    graph.node.extend(peaks.node)
    graph.initializer.extend(peaks.initializer)
    graph.input.append(peaks.input[1])
    # The recorded intermediate shapes hold for any size; runtimes infer their own.
    del graph.output[:], graph.value_info[:]
    graph.output.extend([*peaks.output, *others])
    try:
        return Model.from_graph(whole, replace(card, capacity=capacity))
    except KinetError as error:
        raise EngineError(f"the model cannot be fused ({error}): export it again, with opset {OPSET}") from None


def _check_interface(graph: onnx.GraphProto, classes: int) -> None:
    """Raise an EngineError unless the model's input is ``frame`` and its output ``maps`` of this many classes."""
    from onnx import TensorProto

    inputs, outputs = (
        {value.name: (value.type.tensor_type.elem_type, list(value.type.tensor_type.shape.dim)) for value in values}
        for values in (graph.input, graph.output)
    )
    kind, shape = inputs.get("frame", (0, []))
    takes = list(inputs) == ["frame"] and kind == TensorProto.UINT8 and len(shape) == 4
    kind, shape = outputs.get("maps", (0, []))
    gives = kind == TensorProto.FLOAT and len(shape) == 4 and shape[1].dim_value == classes
    if not takes or not gives:
        raise EngineError(
            "the model cannot be fused: expected frame, uint8 [N, H, W, 3], in, and out maps, float32 "
            f"[N, {classes}, H, W]; found {', '.join(inputs)} in, {', '.join(outputs)} out: export it with kinet-trt"
        )

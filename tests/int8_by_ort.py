"""An INT8 model for tests: ONNX Runtime's own quantiser, asked for what TensorRT takes."""

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from kinet_trt.simulation.simulate import field


class Fields(CalibrationDataReader):
    """A few simulated fields."""

    def __init__(self):
        self.left = [{"frame": field(seed, 128, 128)[0][None]} for seed in (1, 2)]

    def get_next(self):
        return self.left.pop() if self.left else None


def int8_by_ort(model, folder):
    """Quantise all convolutions but the first and the last: symmetric, biases in float."""
    convolutions = [node.name for node in onnx.load_from_string(model).graph.node if node.op_type == "Conv"]
    source, out = folder / "float.onnx", folder / "int8.onnx"
    source.write_bytes(model)
    quantize_static(
        source,
        out,
        Fields(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        nodes_to_quantize=convolutions[1:-1],
        extra_options={"QuantizeBias": False, "ActivationSymmetric": True, "WeightSymmetric": True},
    )
    return out.read_bytes()

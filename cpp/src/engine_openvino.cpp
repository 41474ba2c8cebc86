// Engine for fused ONNX models, on OpenVINO.
#include <algorithm>
#include <mutex>
#include <openvino/op/fake_quantize.hpp>
#include <openvino/openvino.hpp>

#include "engine.hpp"
#include "error.hpp"

namespace kinet {
namespace {

// The core of this process, which is never destroyed: on CPUs with AMX each core installs an alternate signal stack on
// its thread, and two cores destroyed in the order of their creation leave a dangling one.
ov::Core& core() {
    static ov::Core& instance = *new ov::Core();
    return instance;
}

// Return the reason in an OpenVINO message, its last line; the others are positions in OpenVINO's source.
std::string last_line(const std::string& text) {
    const size_t end = text.find_last_not_of(" \n");
    const size_t start = end == std::string::npos ? end : text.find_last_of('\n', end);
    return start == std::string::npos ? text : text.substr(start + 1, end - start);
}

ov::AnyMap properties(const Options& options) {
    const std::string precision = options.precision.empty() ? "fp32" : options.precision;
    ov::AnyMap found{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
    if (precision == "fp32")
        found.insert(ov::hint::inference_precision(ov::element::f32));
    else if (precision == "bf16")
        found.insert(ov::hint::inference_precision(ov::element::bf16));
    else if (precision == "fp16")
        found.insert(ov::hint::inference_precision(ov::element::f16));
    else
        throw ArgumentError("precision: expected fp32, bf16 or fp16, found " + precision);
    if (options.threads < 0)
        throw ArgumentError("threads: expected 1 or more, or 0 for the default, found " +
                            std::to_string(options.threads));
    if (options.threads) found.insert(ov::inference_num_threads(options.threads));
    return found;
}

// Replace a FakeQuantize to int8 and the dequantisation that follows by one FakeQuantize; leave others unchanged.
void include_dequantisation(const ov::op::v0::FakeQuantize& quantise) {
    const ov::Node* last = &quantise;
    for (const std::string kind : {"Convert", "Convert", "Subtract", "Multiply"}) {
        const auto readers = last->output(0).get_target_inputs();
        if (readers.size() != 1 || readers.begin()->get_node()->get_type_name() != kind) return;
        last = readers.begin()->get_node();
    }
    const auto low = quantise.input_value(1), high = quantise.input_value(2);
    const auto joined = std::make_shared<ov::op::v0::FakeQuantize>(quantise.input_value(0), low, high, low, high,
                                                                   quantise.get_levels());
    joined->set_friendly_name(last->get_friendly_name());
    const_cast<ov::Node*>(last)->output(0).replace(joined->output(0));
}

// Read a model so that INT8 results are correct on every CPU: without AMX, OpenVINO 2026.4 rounds concatenated tensors
// with QuantizeLinear and DequantizeLinear to integers. See read_network in kinet_trt/engines/openvino.py.
std::shared_ptr<ov::Model> read_network(const Model& model) {
    const std::shared_ptr<ov::Model> network = core().read_model(model.bytes, ov::Tensor());
    for (const std::shared_ptr<ov::Node>& operation : network->get_ordered_ops())
        if (const auto quantise = ov::as_type_ptr<ov::op::v0::FakeQuantize>(operation))
            include_dequantisation(*quantise);
    return network;
}

class OpenVinoEngine : public Engine {
public:
    OpenVinoEngine(const Model& model, const Options& options) : capacity_(model.card.capacity) {
        if (model.is_plan)
            throw ModelError(model.path + ": a TensorRT plan, but this library was built for OpenVINO: use the .onnx");
        const ov::AnyMap config = properties(options);
        try {
            const std::string device = options.device.empty() ? "CPU" : options.device;
            compiled_ = core().compile_model(read_network(model), device, config);
        } catch (const ov::Exception& error) {
            throw ModelError(model.path + ": OpenVINO cannot open it: " + last_line(error.what()));
        }
    }

    int32_t run(const uint8_t* rgb, int64_t height, int64_t width, float threshold,
                std::vector<float>& rows) override {
        ov::InferRequest request = acquire();
        try {
            const ov::Shape shape{1, static_cast<size_t>(height), static_cast<size_t>(width), 3};
            request.set_tensor("frame", ov::Tensor(ov::element::u8, shape, const_cast<uint8_t*>(rgb)));
            request.set_tensor("threshold", ov::Tensor(ov::element::f32, {1}, &threshold));
            request.infer();
            const int32_t count = request.get_tensor("count").data<int32_t>()[0];
            const float* found = request.get_tensor("detections").data<float>();
            rows.assign(found, found + 4 * std::min(count, capacity_));
            release(request);
            return count;
        } catch (const ov::Exception& error) {
            throw Error("OpenVINO failed on a frame of " + std::to_string(width) + " x " + std::to_string(height) +
                        " px: " + last_line(error.what()));
        }
    }

private:
    // A request serves one thread at a time; idle ones are reused.
    ov::InferRequest acquire() {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (idle_.empty()) return compiled_.create_infer_request();
        ov::InferRequest request = idle_.back();
        idle_.pop_back();
        return request;
    }

    void release(const ov::InferRequest& request) {
        const std::lock_guard<std::mutex> lock(mutex_);
        idle_.push_back(request);
    }

    int32_t capacity_;
    ov::CompiledModel compiled_;
    std::mutex mutex_;
    std::vector<ov::InferRequest> idle_;
};

}  // namespace

std::unique_ptr<Engine> open_engine(const Model& model, const Options& options) {
    return std::make_unique<OpenVinoEngine>(model, options);
}

std::string runtime_version() {
    const std::string build = ov::get_openvino_version().buildNumber;
    return "OpenVINO " + build.substr(0, build.find('-'));
}

}  // namespace kinet

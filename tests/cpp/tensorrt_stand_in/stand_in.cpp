// Implementation of the stand-in for TensorRT: a plan is a fused ONNX file, OpenVINO runs it, and device memory is host
// memory at another address. As on a GPU, passing host memory, omitting a copy, a tensor, memory or a shape, or not
// synchronizing gives an error or no result.
#include <NvInfer.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <openvino/openvino.hpp>
#include <vector>

struct CUstream_st {
    std::vector<std::function<void()>> queued;
};

namespace {

constexpr int64_t SCRATCH = 4096;
constexpr uintptr_t AWAY = uintptr_t{1} << 60;  // not a host address
std::mutex mutex;
std::map<uintptr_t, std::vector<char>> memory;
thread_local int current = 0;

// Return the host memory of a device address; null unless it has this many bytes.
char* host_memory(const void* device, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = memory.find(reinterpret_cast<uintptr_t>(device));
    return found != memory.end() && found->second.size() >= bytes && current == 0 ? found->second.data() : nullptr;
}

size_t size_of(const ov::element::Type& type, const nvinfer1::Dims& dims) {
    size_t bytes = type.size();
    for (int32_t i = 0; i < dims.nbDims; i++) bytes *= static_cast<size_t>(dims.d[i]);
    return bytes;
}

struct Context : nvinfer1::IExecutionContext {
    Context(const ov::CompiledModel& model, nvinfer1::ILogger& logger)
        : request(ov::CompiledModel(model).create_infer_request()), logger(logger) {}

    bool setInputShape(char const* name, nvinfer1::Dims const& dims) noexcept override {
        if (std::strcmp(name, "frame") != 0 || dims.nbDims != 4 || dims.d[0] != 1 || dims.d[3] != 3) return false;
        if (dims.d[1] % 16 || dims.d[2] % 16 || dims.d[1] < 64 || dims.d[2] > 1600) {
            logger.log(nvinfer1::ILogger::Severity::kERROR, "the shape is outside the profile");
            return false;
        }
        frame = dims;
        return true;
    }
    nvinfer1::Dims getTensorShape(char const* name) const noexcept override {
        const std::string text = name;
        if (text == "frame") return frame;
        if (text == "detections") return {3, {1, capacity(), 4}};
        return {1, {1}};
    }
    bool setTensorAddress(char const* name, void* data) noexcept override {
        addresses[name] = data;
        return true;
    }
    void setDeviceMemoryV2(void* data, int64_t size) noexcept override {
        ready = size >= SCRATCH && host_memory(data, static_cast<size_t>(size));
    }
    int64_t capacity() const {
        return request.get_compiled_model().output("detections").get_partial_shape()[1].get_length();
    }
    bool enqueueV3(cudaStream_t stream) noexcept override {
        if (!ready || frame.nbDims != 4) return false;
        char* at[4];
        const char* names[] = {"frame", "threshold", "count", "detections"};
        const ov::element::Type types[] = {ov::element::u8, ov::element::f32, ov::element::i32, ov::element::f32};
        for (int i = 0; i < 4; i++)
            if (!(at[i] = host_memory(addresses[names[i]], size_of(types[i], getTensorShape(names[i]))))) return false;
        stream->queued.emplace_back([this, at0 = at[0], at1 = at[1], at2 = at[2], at3 = at[3]] {
            const ov::Shape shape(frame.d, frame.d + 4);
            request.set_tensor("frame", ov::Tensor(ov::element::u8, shape, at0));
            request.set_tensor("threshold", ov::Tensor(ov::element::f32, {1}, at1));
            request.infer();
            const ov::Tensor count = request.get_tensor("count"), detections = request.get_tensor("detections");
            std::memcpy(at2, count.data(), count.get_byte_size());
            std::memcpy(at3, detections.data(), detections.get_byte_size());
        });
        return true;
    }

    mutable ov::InferRequest request;
    nvinfer1::ILogger& logger;
    nvinfer1::Dims frame{0, {}};
    std::map<std::string, void*> addresses;
    bool ready = false;
};

struct Engine : nvinfer1::ICudaEngine {
    Engine(const ov::CompiledModel& model, nvinfer1::ILogger& logger) : model(model), logger(logger) {}
    int32_t getNbIOTensors() const noexcept override { return 4; }
    char const* getIOTensorName(int32_t index) const noexcept override {
        const char* const names[] = {"frame", "threshold", "count", "detections"};
        return names[index];
    }
    nvinfer1::DataType getTensorDataType(char const* name) const noexcept override {
        const std::string text = name;
        if (text == "frame") return nvinfer1::DataType::kUINT8;
        return text == "count" ? nvinfer1::DataType::kINT32 : nvinfer1::DataType::kFLOAT;
    }
    int64_t getDeviceMemorySizeV2() const noexcept override { return SCRATCH; }
    nvinfer1::IExecutionContext* createExecutionContext(
        nvinfer1::ExecutionContextAllocationStrategy strategy) noexcept override {
        if (strategy != nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED) return nullptr;
        return new Context(model, logger);
    }
    ov::CompiledModel model;
    nvinfer1::ILogger& logger;
};

struct Runtime : nvinfer1::IRuntime {
    explicit Runtime(nvinfer1::ILogger& logger) : logger(logger) {}
    nvinfer1::ICudaEngine* deserializeCudaEngine(void const* blob, size_t size) noexcept override {
        static ov::Core& core = *new ov::Core();
        try {
            const std::string onnx(static_cast<const char*>(blob), size);
            return new Engine(core.compile_model(core.read_model(onnx, ov::Tensor()), "CPU",
                                                 ov::hint::inference_precision(ov::element::f32),
                                                 ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)),
                              logger);
        } catch (const std::exception&) {
            logger.log(nvinfer1::ILogger::Severity::kWARNING, "a warning to ignore");
            logger.log(nvinfer1::ILogger::Severity::kERROR, "the plan cannot be parsed");
            return nullptr;
        }
    }
    nvinfer1::ILogger& logger;
};

}  // namespace

extern "C" int32_t getInferLibMajorVersion() noexcept { return 10; }
extern "C" int32_t getInferLibMinorVersion() noexcept { return 13; }
extern "C" int32_t getInferLibPatchVersion() noexcept { return 3; }
extern "C" int32_t getInferLibBuildVersion() noexcept { return 9; }

nvinfer1::IRuntime* nvinfer1::createInferRuntime(ILogger& logger) noexcept { return new Runtime(logger); }

cudaError_t cudaGetDevice(int* device) {
    *device = current;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    if (device > 1) return cudaErrorInvalidDevice;
    current = device;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void** address, size_t size) {
    static uintptr_t next = AWAY;
    const std::lock_guard<std::mutex> lock(mutex);
    memory[next] = std::vector<char>(size, 0x55);
    *address = reinterpret_cast<void*>(next);
    next += (size + 256) & ~size_t{255};
    return cudaSuccess;
}
cudaError_t cudaFree(void* address) {
    const std::lock_guard<std::mutex> lock(mutex);
    return !address || memory.erase(reinterpret_cast<uintptr_t>(address)) ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    char* const device = host_memory(kind == cudaMemcpyHostToDevice ? to : from, bytes);
    if (!device) return cudaErrorInvalidValue;
    if (kind == cudaMemcpyHostToDevice)
        stream->queued.emplace_back([device, staged = std::vector<char>(static_cast<const char*>(from),
                                                                        static_cast<const char*>(from) + bytes)] {
            std::memcpy(device, staged.data(), staged.size());
        });
    else
        stream->queued.emplace_back([=] { std::memcpy(to, device, bytes); });
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = new CUstream_st();
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    for (const auto& work : stream->queued) work();
    stream->queued.clear();
    return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorInvalidDevice ? "invalid device ordinal" : "invalid argument";
}

// Engine for fused plans, on TensorRT 10.3 or newer or TensorRT for RTX: the interface used here is the same in both.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "engine.hpp"
#include "error.hpp"

namespace kinet {
namespace {

#ifdef TRT_MAJOR_RTX
const std::string NAME = "TensorRT for RTX";
#else
const std::string NAME = "TensorRT";
#endif

std::string version() {
    return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
           std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
}

// Whether a version as Python states it, in a card, is that of this library: Python states three parts in TensorRT 10.3
// to 10.7 and four later, and ".postN" is a number of the package.
bool is_version(const std::string& stated) {
    const std::string parts = stated.substr(0, stated.find(".post"));
    return !parts.empty() && (version() + ".").rfind(parts + ".", 0) == 0;
}

// Collects TensorRT's error messages. TensorRT accepts one logger per process, so it is a singleton, never destroyed.
class Log : public nvinfer1::ILogger {
public:
    static Log& instance() {
        static Log& log = *new Log();
        return log;
    }

    void log(Severity severity, const char* text) noexcept override {
        if (severity > Severity::kERROR) return;
        try {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (messages_.size() < 600) messages_ += (messages_.empty() ? "" : "; ") + std::string(text);
        } catch (...) {
        }
    }

    std::string take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        const std::string found = messages_.empty() ? "no reason given" : messages_;
        messages_.clear();
        return found;
    }

private:
    std::mutex mutex_;
    std::string messages_;
};

void check(cudaError_t error) {
    if (error != cudaSuccess) throw Error(std::string("the GPU failed: ") + cudaGetErrorString(error));
}

// Selects a GPU and restores the host's choice at the end of the scope.
class OnDevice {
public:
    explicit OnDevice(int device) {
        check(cudaGetDevice(&before_));
        check(cudaSetDevice(device));
    }
    ~OnDevice() { cudaSetDevice(before_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

private:
    int before_ = 0;
};

class DeviceMemory {
public:
    DeviceMemory() = default;
    ~DeviceMemory() { cudaFree(address_); }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    // Return an allocation of at least this many bytes; its content is lost when it grows.
    void* at_least(size_t bytes) {
        if (bytes > size_) {
            check(cudaFree(address_));
            address_ = nullptr;
            size_ = 0;
            check(cudaMalloc(&address_, bytes));
            size_ = bytes;
        }
        return address_;
    }

private:
    void* address_ = nullptr;
    size_t size_ = 0;
};

int device_number(const std::string& text) {
    if (text.empty()) return 0;
    if (text.size() > 3 || text.find_first_not_of("0123456789") != std::string::npos)
        throw ArgumentError("device: expected the number of a GPU, found " + text);
    return std::stoi(text);
}

class TensorRtEngine : public Engine {
public:
    TensorRtEngine(const Model& model, const Options& options) : card_(model.card), path_(model.path) {
        if (!model.is_plan)
            throw ModelError(path_ + ": an ONNX file, but this library was built for " + NAME +
                             ": kinet-trt build MODEL.onnx -o MODEL.engine --fused");
        if (!options.precision.empty())
            throw ArgumentError("precision: expected none, since the plan defines it, found " + options.precision);
        device_ = device_number(options.device);
        // Checked before TensorRT parses the plan: one of another version can crash the process.
        if (card_.runtime != NAME || !is_version(card_.runtime_version))
            throw ModelError(path_ + ": built by " + card_.runtime + " " + card_.runtime_version + ", but this is " +
                             NAME + " " + version() + "; plans are not portable between versions: build it here");
        const OnDevice here(device_);
        Log::instance().take();
        runtime_.reset(nvinfer1::createInferRuntime(Log::instance()));
        if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(model.bytes.data(), model.bytes.size()));
        if (!engine_) fail("cannot load it");
        check_tensors();
        // User-managed memory: kinet-trt's plans for RTX require it, others allow it.
        context_.reset(engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
        if (!context_) fail("cannot create an execution context");
        const int64_t scratch = engine_->getDeviceMemorySizeV2();
        context_->setDeviceMemoryV2(memory_["scratch"].at_least(static_cast<size_t>(std::max<int64_t>(scratch, 1))),
                                    scratch);
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    }

    ~TensorRtEngine() override {
        int before = 0;
        cudaGetDevice(&before);
        cudaSetDevice(device_);
        if (stream_) cudaStreamDestroy(stream_);
        context_.reset();
        engine_.reset();
        runtime_.reset();
        memory_.clear();
        cudaSetDevice(before);
    }

    int32_t run(const uint8_t* rgb, int64_t height, int64_t width, float threshold,
                std::vector<float>& rows) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        const OnDevice here(device_);
        if (!context_->setInputShape("frame", nvinfer1::Dims4{1, height, width, 3}))
            fail("does not accept a frame of " + std::to_string(width) + " x " + std::to_string(height) +
                    " px (with padding): build it for that size");
        std::map<std::string, void*> address;
        for (int32_t i = 0; i < engine_->getNbIOTensors(); i++) {
            const char* name = engine_->getIOTensorName(i);
            const nvinfer1::Dims dims = context_->getTensorShape(name);
            size_t bytes = engine_->getTensorDataType(name) == nvinfer1::DataType::kUINT8 ? 1 : 4;
            for (int32_t d = 0; d < dims.nbDims; d++) bytes *= static_cast<size_t>(dims.d[d]);
            address[name] = memory_[name].at_least(bytes);
            if (!context_->setTensorAddress(name, address[name])) fail(std::string("does not accept ") + name);
        }
        const size_t frame = static_cast<size_t>(3 * height * width);
        int32_t count = 0;
        check(cudaMemcpyAsync(address["frame"], rgb, frame, cudaMemcpyHostToDevice, stream_));
        check(cudaMemcpyAsync(address["threshold"], &threshold, sizeof threshold, cudaMemcpyHostToDevice, stream_));
        if (!context_->enqueueV3(stream_)) fail("failed on a frame");
        check(cudaMemcpyAsync(&count, address["count"], sizeof count, cudaMemcpyDeviceToHost, stream_));
        check(cudaStreamSynchronize(stream_));
        rows.resize(static_cast<size_t>(4 * std::clamp(count, 0, card_.capacity)));
        check(cudaMemcpyAsync(rows.data(), address["detections"], rows.size() * sizeof(float), cudaMemcpyDeviceToHost,
                              stream_));
        check(cudaStreamSynchronize(stream_));
        return count;
    }

private:
    [[noreturn]] void fail(const std::string& what) {
        const std::string message = path_ + ": " + NAME + " " + version() + " " + what + ": " + Log::instance().take();
        if (stream_) throw Error(message);  // the model is open
        throw ModelError(message);
    }

    void check_tensors() {
        using nvinfer1::DataType;
        std::map<std::string, DataType> kinds;
        for (int32_t i = 0; i < engine_->getNbIOTensors(); i++) {
            const char* name = engine_->getIOTensorName(i);
            kinds[name] = engine_->getTensorDataType(name);
        }
        const std::map<std::string, DataType> expected{{"frame", DataType::kUINT8},
                                                       {"threshold", DataType::kFLOAT},
                                                       {"count", DataType::kINT32},
                                                       {"detections", DataType::kFLOAT}};
        for (const auto& [name, kind] : expected)
            if (!kinds.count(name) || kinds[name] != kind)
                throw ModelError(path_ + ": expected a fused plan with a tensor " + name + ": build it again");
    }

    Card card_;
    std::string path_;
    int device_ = 0;
    std::mutex mutex_;
    std::map<std::string, DeviceMemory> memory_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    cudaStream_t stream_ = nullptr;
};

}  // namespace

std::unique_ptr<Engine> open_engine(const Model& model, const Options& options) {
    return std::make_unique<TensorRtEngine>(model, options);
}

std::string runtime_version() { return NAME + " " + version(); }

}  // namespace kinet

// What runs a fused model: OpenVINO (engine_openvino.cpp) or TensorRT (engine_tensorrt.cpp). One of the two is compiled.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "card.hpp"

namespace kinet {

struct Options {
    int threads = 0;        // 0: the runtime decides
    std::string device;     // empty: the first of its kind
    std::string precision;  // empty: FP32, or what the plan was built in
};

class Engine {
public:
    virtual ~Engine() = default;

    // Run one RGB frame whose sides are multiples of the card's. Returns the true number of nuclei, and the first of
    // them, at most the card's capacity, as rows of x, y, score, class. Any thread may call it.
    virtual int32_t run(const uint8_t* rgb, int64_t height, int64_t width, float threshold,
                        std::vector<float>& rows) = 0;
};

std::unique_ptr<Engine> open_engine(const Model& model, const Options& options);

// Name and version of the runtime.
std::string runtime_version();

}  // namespace kinet

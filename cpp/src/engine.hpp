// Engine that runs a fused model. engine_openvino.cpp or engine_tensorrt.cpp is compiled.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "card.hpp"

namespace kinet {

struct Options {
    int threads = 0;        // 0: the runtime decides
    std::string device;     // empty: default device
    std::string precision;  // empty: FP32, or that of the plan
};

class Engine {
public:
    virtual ~Engine() = default;

    // Run one RGB frame whose sides are multiples of the card's alignment. Returns the number of nuclei and writes the
    // first ones, at most the card's capacity, as rows of x, y, score, class. Thread-safe.
    virtual int32_t run(const uint8_t* rgb, int64_t height, int64_t width, float threshold,
                        std::vector<float>& rows) = 0;
};

std::unique_ptr<Engine> open_engine(const Model& model, const Options& options);

// Name and version of the runtime.
std::string runtime_version();

}  // namespace kinet

// Scaling of frames to the model's um/px, by the method of kinet_trt/core/frame.py.
#pragma once

#include <cstdint>
#include <vector>

#include "counter.hpp"

namespace kinet {

struct Scaled {
    std::vector<uint8_t> pixels;  // RGB, contiguous
    int64_t width = 0, height = 0;
    double scale_x = 1, scale_y = 1;  // model px per px of the frame
};

// Scale a frame of um/px `mpp` to `model_mpp`: area averages when shrinking, half-pixel bilinear when enlarging.
// Throws ArgumentError if mpp is not positive, or if the result is too small or too large.
Scaled scale_to(const Image& image, double mpp, double model_mpp);

// Convert a coordinate in the scaled frame to the input frame; pixel centres are at integers in both.
inline float unscaled(float centre, double scale) {
    return scale == 1.0 ? centre : static_cast<float>((static_cast<double>(centre) + 0.5) / scale - 0.5);
}

}  // namespace kinet

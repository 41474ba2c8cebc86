// Counter of the nuclei in a frame; kinet.h is the C interface to it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "card.hpp"
#include "engine.hpp"

namespace kinet {

// View of the caller's pixels; see kinet_count in kinet.h.
struct Image {
    const uint8_t* pixels = nullptr;
    int64_t width = 0, height = 0;  // px
    int64_t stride = 0;             // bytes from one row to the next
    bool is_bgr = false;
};

// Size limits in px at the model's um/px, as in kinet_trt/core/frame.py.
constexpr int64_t MIN_SIDE = 32, MAX_SIDE = 1 << 20, MAX_PIXELS = 1 << 29;

// Throw an ArgumentError unless an image can be counted.
void check_image(const Image& image);

struct Nucleus {
    float x, y, score;
    int32_t cls;
};

struct Found {
    int64_t count = 0;  // larger than nuclei.size() if the model's capacity is exceeded; see kinet_count
    std::vector<Nucleus> nuclei;  // in raster order
};

class Counter {
public:
    explicit Counter(const std::string& path, const Options& options = {});

    // Count a frame at the card's um/px. A threshold of NaN stands for the card's. Thread-safe.
    Found count(const Image& image, float threshold) const;

    // Count a frame of any um/px: it is scaled to the card's first. Coordinates are px of the input frame.
    Found count_at(const Image& image, double mpp, float threshold) const;

    const Card& card() const { return card_; }

private:
    Card card_;
    std::unique_ptr<Engine> engine_;
};

}  // namespace kinet

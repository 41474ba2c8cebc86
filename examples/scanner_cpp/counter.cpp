#include "counter.hpp"

#include <algorithm>
#include <cmath>

#include "error.hpp"

namespace kinet {
namespace {

constexpr int64_t MIN_SIDE = 32, MAX_SIDE = 1 << 20, MAX_PIXELS = 1 << 29;  // as kinet_trt/frame.py
constexpr int64_t MAX_STRIDE = int64_t{1} << 40;                                // bytes
constexpr int GREY_SPREAD = 8;

void check(const Image& image) {
    if (!image.pixels) throw ArgumentError("pixels: expected a frame, found a null pointer");
    const std::string size = std::to_string(image.width) + " x " + std::to_string(image.height) + " px";
    if (std::min(image.width, image.height) < MIN_SIDE)
        throw ArgumentError("too small: " + size + "; the shorter side must have at least 32 px");
    if (std::max(image.width, image.height) > MAX_SIDE || image.width * image.height > MAX_PIXELS)
        throw ArgumentError("too large: " + size + ": count parts of it");
    const bool overlaps = image.stride < 3 * image.width && image.stride > -3 * image.width;
    if (overlaps || image.stride > MAX_STRIDE || image.stride < -MAX_STRIDE)
        throw ArgumentError("stride: expected at least " + std::to_string(3 * image.width) + " bytes for " + size +
                            ", found " + std::to_string(image.stride));
}

const uint8_t* row(const Image& image, int64_t y) { return image.pixels + y * image.stride; }

bool has_colour(const Image& image) {
    for (int64_t y = 0; y < image.height; y++) {
        const uint8_t* p = row(image, y);
        for (int64_t x = 0; x < image.width; x++, p += 3)
            if (std::max({p[0], p[1], p[2]}) - std::min({p[0], p[1], p[2]}) > GREY_SPREAD) return true;
    }
    return false;
}

// Return the frame as RGB without gaps, padded at the bottom and right by repeating the last row and column.
std::vector<uint8_t> fit(const Image& image, int64_t height, int64_t width) {
    std::vector<uint8_t> pixels(static_cast<size_t>(3 * height * width));
    for (int64_t y = 0; y < height; y++) {
        const uint8_t* from = row(image, std::min(y, image.height - 1));
        uint8_t* to = pixels.data() + 3 * width * y;
        std::copy_n(from, 3 * image.width, to);
        if (image.is_bgr)
            for (int64_t x = 0; x < image.width; x++) std::swap(to[3 * x], to[3 * x + 2]);
        for (int64_t x = image.width; x < width; x++) std::copy_n(to + 3 * (image.width - 1), 3, to + 3 * x);
    }
    return pixels;
}

}  // namespace

Counter::Counter(const std::string& path, const Options& options) {
    const Model model = read_model(path);
    card_ = model.card;
    engine_ = open_engine(model, options);
}

Found Counter::count(const Image& image, float threshold) const {
    check(image);
    if (std::isnan(threshold)) threshold = card_.threshold;
    if (!std::isfinite(threshold)) throw ArgumentError("threshold: expected a finite number, or NaN for the model's");
    Found found;
    if (!has_colour(image)) return found;
    const int64_t m = card_.multiple;
    const int64_t height = (image.height + m - 1) / m * m, width = (image.width + m - 1) / m * m;
    const bool fits = height == image.height && width == image.width && image.stride == 3 * width && !image.is_bgr;
    const std::vector<uint8_t> copy = fits ? std::vector<uint8_t>() : fit(image, height, width);
    std::vector<float> rows;
    found.count = engine_->run(fits ? image.pixels : copy.data(), height, width, threshold, rows);
    for (size_t i = 0; i + 4 <= rows.size(); i += 4) {
        const Nucleus nucleus{rows[i], rows[i + 1], rows[i + 2], static_cast<int32_t>(rows[i + 3])};
        if (nucleus.x < static_cast<float>(image.width) && nucleus.y < static_cast<float>(image.height))
            found.nuclei.push_back(nucleus);
        else
            found.count--;
    }
    return found;
}

}  // namespace kinet

#include "counter.hpp"

#include <algorithm>
#include <cmath>

#include "error.hpp"
#include "scale.hpp"
#include "tiles.hpp"

namespace kinet {
namespace {

constexpr int64_t MAX_STRIDE = int64_t{1} << 40;  // bytes
constexpr int GREY_SPREAD = 8;

}  // namespace

void check_image(const Image& image) {
    if (!image.pixels) throw ArgumentError("pixels: expected a frame, found a null pointer");
    const std::string size = std::to_string(image.width) + " x " + std::to_string(image.height) + " px";
    if (std::min(image.width, image.height) < MIN_SIDE)
        throw ArgumentError("too small: " + size + "; expected at least 32 px per side");
    if (std::max(image.width, image.height) > MAX_SIDE || image.width * image.height > MAX_PIXELS)
        throw ArgumentError("too large: " + size + ": count it in parts");
    const bool overlaps = image.stride < 3 * image.width && image.stride > -3 * image.width;
    if (overlaps || image.stride > MAX_STRIDE || image.stride < -MAX_STRIDE)
        throw ArgumentError("stride: expected at least " + std::to_string(3 * image.width) + " bytes for " + size +
                            ", found " + std::to_string(image.stride));
}

namespace {

const uint8_t* row(const Image& image, int64_t y) { return image.pixels + y * image.stride; }

bool has_colour(const Image& image) {
    for (int64_t y = 0; y < image.height; y++) {
        const uint8_t* p = row(image, y);
        for (int64_t x = 0; x < image.width; x++, p += 3)
            if (std::max({p[0], p[1], p[2]}) - std::min({p[0], p[1], p[2]}) > GREY_SPREAD) return true;
    }
    return false;
}

// Return a window of the frame as contiguous RGB, padded by repeating the last row and column of the frame.
std::vector<uint8_t> window(const Image& image, const Span& rows, const Span& columns) {
    const int64_t width = columns.window_end - columns.window_begin;
    const int64_t inside = std::min(columns.window_end, image.width) - columns.window_begin;
    std::vector<uint8_t> pixels(static_cast<size_t>(3 * width * (rows.window_end - rows.window_begin)));
    uint8_t* to = pixels.data();
    for (int64_t y = rows.window_begin; y < rows.window_end; y++, to += 3 * width) {
        std::copy_n(row(image, std::min(y, image.height - 1)) + 3 * columns.window_begin, 3 * inside, to);
        if (image.is_bgr)
            for (int64_t x = 0; x < inside; x++) std::swap(to[3 * x], to[3 * x + 2]);
        for (int64_t x = inside; x < width; x++) std::copy_n(to + 3 * (inside - 1), 3, to + 3 * x);
    }
    return pixels;
}

int64_t rounded_up(int64_t length, int64_t multiple) { return (length + multiple - 1) / multiple * multiple; }

}  // namespace

Counter::Counter(const std::string& path, const Options& options) {
    const Model model = read_model(path);
    card_ = model.card;
    engine_ = open_engine(model, options);
}

Found Counter::count(const Image& image, float threshold) const {
    check_image(image);
    if (std::isnan(threshold)) threshold = card_.threshold;
    if (!std::isfinite(threshold)) throw ArgumentError("threshold: expected a finite number, or NaN for the model's");
    Found found;
    if (!has_colour(image)) return found;
    const int64_t min_side = card_.min_side;
    const int64_t height = rounded_up(std::max(image.height, min_side), card_.multiple);
    const int64_t width = rounded_up(std::max(image.width, min_side), card_.multiple);
    const bool whole = height <= card_.whole_height && width <= card_.whole_width;
    const int64_t tile = whole ? std::max(height, width) : card_.tile;
    std::vector<float> rows;
    int64_t dropped = 0;
    for (const Span& y : spans(height, tile, card_.halo, card_.multiple)) {
        for (const Span& x : spans(width, tile, card_.halo, card_.multiple)) {
            const std::vector<uint8_t> pixels = window(image, y, x);
            const int32_t n = engine_->run(pixels.data(), y.window_end - y.window_begin,
                                           x.window_end - x.window_begin, threshold, rows);
            dropped += std::max(0, n - card_.capacity);
            for (size_t i = 0; i + 4 <= rows.size(); i += 4) {
                const Nucleus nucleus{rows[i] + static_cast<float>(x.window_begin),
                                      rows[i + 1] + static_cast<float>(y.window_begin), rows[i + 2],
                                      static_cast<int32_t>(rows[i + 3])};
                const bool in_padding = nucleus.x >= static_cast<float>(image.width) ||
                                        nucleus.y >= static_cast<float>(image.height);
                if (x.contains(nucleus.x) && y.contains(nucleus.y) && !in_padding) found.nuclei.push_back(nucleus);
            }
        }
    }
    std::sort(found.nuclei.begin(), found.nuclei.end(), [](const Nucleus& one, const Nucleus& other) {
        return one.y < other.y || (one.y == other.y && one.x < other.x);
    });
    found.count = static_cast<int64_t>(found.nuclei.size()) + dropped;
    return found;
}

Found Counter::count_at(const Image& image, double mpp, float threshold) const {
    if (mpp == card_.mpp) return count(image, threshold);
    const Scaled scaled = scale_to(image, mpp, card_.mpp);
    if (!has_colour(image)) return {};
    Found found = count({scaled.pixels.data(), scaled.width, scaled.height, 3 * scaled.width, false}, threshold);
    for (Nucleus& nucleus : found.nuclei) {
        nucleus.x = unscaled(nucleus.x, scaled.scale_x);
        nucleus.y = unscaled(nucleus.y, scaled.scale_y);
    }
    return found;
}

}  // namespace kinet

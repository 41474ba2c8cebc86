#include "scale.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>

#include "error.hpp"

namespace kinet {
namespace {

// Source pixels and weights of one target pixel along an axis.
struct Taps {
    int64_t first = 0;
    std::vector<float> weights;
};

std::vector<Taps> area_taps(int64_t from, int64_t to) {
    const double step = static_cast<double>(from) / static_cast<double>(to);
    std::vector<Taps> all(static_cast<size_t>(to));
    for (int64_t i = 0; i < to; i++) {
        const double begin = static_cast<double>(i) * step;
        const double end = std::min(begin + step, static_cast<double>(from));
        Taps& taps = all[static_cast<size_t>(i)];
        taps.first = std::min(static_cast<int64_t>(begin), from - 1);
        for (int64_t source = taps.first; source < from && static_cast<double>(source) < end; source++) {
            const double covered = std::min(end, static_cast<double>(source + 1)) -
                                   std::max(begin, static_cast<double>(source));
            taps.weights.push_back(static_cast<float>(covered / (end - begin)));
        }
    }
    return all;
}

std::vector<Taps> linear_taps(int64_t from, int64_t to) {
    const double step = static_cast<double>(from) / static_cast<double>(to);
    std::vector<Taps> all(static_cast<size_t>(to));
    for (int64_t i = 0; i < to; i++) {
        const double last = static_cast<double>(from - 1);
        const double at = std::clamp((static_cast<double>(i) + 0.5) * step - 0.5, 0.0, last);
        const double low = std::min(std::floor(at), std::max(0.0, last - 1));
        const float right = static_cast<float>(at - low);
        all[static_cast<size_t>(i)] = {static_cast<int64_t>(low), {1 - right, right}};
    }
    return all;
}

// Scale one row of the frame to RGB floats.
void scale_row(const Image& image, int64_t y, const std::vector<Taps>& columns, std::vector<float>& to) {
    const uint8_t* row = image.pixels + y * image.stride;
    const int red = image.is_bgr ? 2 : 0;
    for (size_t x = 0; x < columns.size(); x++) {
        const uint8_t* p = row + 3 * columns[x].first;
        float r = 0, g = 0, b = 0;
        for (const float weight : columns[x].weights) {
            r += weight * static_cast<float>(p[red]);
            g += weight * static_cast<float>(p[1]);
            b += weight * static_cast<float>(p[2 - red]);
            p += 3;
        }
        to[3 * x] = r, to[3 * x + 1] = g, to[3 * x + 2] = b;
    }
}

std::string describe(const Image& image, double mpp) {
    char text[120];
    std::snprintf(text, sizeof text, "%lld x %lld px at %g um/px", static_cast<long long>(image.width),
                  static_cast<long long>(image.height), mpp);
    return text;
}

}  // namespace

Scaled scale_to(const Image& image, double mpp, double model_mpp) {
    if (!(std::isfinite(mpp) && mpp > 0))
        throw ArgumentError("mpp: expected um/px, a positive number, found " + std::to_string(mpp));
    check_image(image);
    const double zoom = mpp / model_mpp;
    const double wide = static_cast<double>(image.width) * zoom, high = static_cast<double>(image.height) * zoom;
    if (std::max(wide, high) > static_cast<double>(MAX_SIDE) || wide * high > static_cast<double>(MAX_PIXELS))
        throw ArgumentError("too large: " + describe(image, mpp) + " exceeds the size limit at the model's um/px: check mpp, "
                            "or count it in parts");
    Scaled scaled;
    scaled.width = static_cast<int64_t>(std::nearbyint(wide));
    scaled.height = static_cast<int64_t>(std::nearbyint(high));
    if (std::min(scaled.width, scaled.height) < MIN_SIDE)
        throw ArgumentError("too small: " + describe(image, mpp) + " is " + std::to_string(scaled.width) + " x " +
                            std::to_string(scaled.height) + " px at the model's um/px; expected at least 32 px per "
                            "side: check mpp");
    scaled.scale_x = static_cast<double>(scaled.width) / static_cast<double>(image.width);
    scaled.scale_y = static_cast<double>(scaled.height) / static_cast<double>(image.height);
    const bool shrinks = scaled.width <= image.width && scaled.height <= image.height;
    const auto taps = shrinks ? area_taps : linear_taps;
    const std::vector<Taps> columns = taps(image.width, scaled.width), rows = taps(image.height, scaled.height);

    const size_t length = 3 * static_cast<size_t>(scaled.width);
    scaled.pixels.resize(length * static_cast<size_t>(scaled.height));
    // Neighbouring target rows share source rows, so two scaled rows are cached.
    std::array<std::vector<float>, 2> cached{std::vector<float>(length), std::vector<float>(length)};
    std::array<int64_t, 2> cached_y{-1, -1};
    std::vector<float> sum(length);
    uint8_t* to = scaled.pixels.data();
    for (const Taps& row : rows) {
        std::fill(sum.begin(), sum.end(), 0.0F);
        int64_t y = row.first;
        for (const float weight : row.weights) {
            const size_t slot = static_cast<size_t>(y % 2);
            if (cached_y[slot] != y) {
                scale_row(image, y, columns, cached[slot]);
                cached_y[slot] = y;
            }
            for (size_t i = 0; i < length; i++) sum[i] += weight * cached[slot][i];
            y++;
        }
        for (const float value : sum) *to++ = static_cast<uint8_t>(std::clamp(std::nearbyint(value), 0.0F, 255.0F));
    }
    return scaled;
}

}  // namespace kinet

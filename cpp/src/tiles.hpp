// Tiling of large frames, as in kinet_trt/inference/tiling.py. A nucleus belongs to the tile whose core contains its
// peak. Cores cover the frame without overlap. A window extends a halo beyond its core and is aligned to the network,
// so the results in a core equal those of the whole frame.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace kinet {

// A core and its window along one side of a frame, px; ends are exclusive.
struct Span {
    int64_t begin, end, window_begin, window_end;
    bool contains(float place) const { return place >= static_cast<float>(begin) && place < static_cast<float>(end); }
};

// Divide a length, a multiple of `multiple`, into aligned spans of similar size; up to tile + 2 halo it is one span.
inline std::vector<Span> spans(int64_t length, int64_t tile, int64_t halo, int64_t multiple) {
    int64_t size = length;
    if (length > tile + 2 * halo) {
        const int64_t count = (length + tile - 1) / tile;
        size = (length + count * multiple - 1) / (count * multiple) * multiple;
    }
    std::vector<Span> found;
    for (int64_t begin = 0; begin < length; begin += size) {
        const int64_t end = std::min(begin + size, length);
        found.push_back({begin, end, std::max<int64_t>(0, begin - halo), std::min(length, end + halo)});
    }
    return found;
}

}  // namespace kinet

// Peak finding as in peaks/reference.py on the device, in three launches.
//
// p is a nucleus when v(p) >= threshold, v(p) > v(q) for every q of its window before it in raster order, and
// v(p) >= v(q) for every q after it, so ties need no separate search. Before p are the rows above and the left
// half of its row, so the window maximum stays separable: across(y, x), the largest value of row y from x - radius
// to x + radius, is compared strictly above p and loosely below it.
//
// NaN pixels and pixels outside the map are -infinity here: they suppress none and, as -infinity is not larger than
// -infinity, are never nuclei.
//
// The same text compiles with a C++ compiler behind tests/cuda_shim.h. It therefore uses no warp functions, and one
// name, shared_memory, for the dynamic shared memory of every kernel.

extern __shared__ int shared_memory[];

// Also in cuda.py.
constexpr int TILE_WIDTH = 32;  // one word of marks
constexpr int TILE_HEIGHT = 64;
constexpr int BAND = 16;  // rows of a tile that are loaded at a time
constexpr int GATHER_THREADS = 128;

struct Settings {
    float least;        // threshold
    int height, width;  // peaks outside are padding
};

struct alignas(16) Nucleus {
    float x, y, score, cls;
};

__device__ inline float nothing() { return __uint_as_float(0xff800000u); }  // -infinity

__device__ inline float number(float value) { return value; }

__device__ inline float number(unsigned short half) {
    const unsigned sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3ffu;
    if (exponent == 0) {
        const float small = fraction * 5.9604644775390625e-8f;  // 2^-24
        return sign ? -small : small;
    }
    const unsigned high = exponent == 31 ? 0x7f800000u : exponent + 112u << 23;
    return __uint_as_float(sign | high | fraction << 13);
}

template <typename Value>
__device__ inline float largest(const Value* pixel, int channels, size_t plane) {
    float found = nothing();
    for (int channel = 0; channel < channels; ++channel) {
        const float value = number(pixel[channel * plane]);
        if (value > found) found = value;  // never for NaN
    }
    return found;
}

// Sets the settings of one run. They are kernel arguments, so they stay those of this run even if a captured graph
// follows and the host already prepares the next frame.
extern "C" __global__ void peaks_begin(
    Settings* settings, int* row_counts, int rows, float threshold, int height, int width) {
    const int first = blockIdx.x * blockDim.x + threadIdx.x;
    if (first == 0) {
        settings->least = threshold;
        settings->height = height;
        settings->width = width;
    }
    for (int row = first; row < rows; row += gridDim.x * blockDim.x) row_counts[row] = 0;
}

// One bit per pixel in marks [images, height, words]; the nuclei of each row in row_counts [images, height].
// A block of 32 x 8 threads has a tile of 32 x 64 px; grid (tiles across, tiles down, images).
template <typename Value>
__device__ void mark(
    const Value* maps, int channels, int height, int width, int radius, const Settings* settings, unsigned* marks,
    int* row_counts) {
    const int span = TILE_WIDTH + 2 * radius, rows = TILE_HEIGHT + 2 * radius;
    float* band = reinterpret_cast<float*>(shared_memory);                         // [BAND, span]
    float* across = band + BAND * span;                                            // [rows, TILE_WIDTH]
    float* candidates = across + rows * TILE_WIDTH;                                // [TILE_HEIGHT, TILE_WIDTH]
    unsigned* bits = reinterpret_cast<unsigned*>(candidates + TILE_HEIGHT * TILE_WIDTH);  // [TILE_HEIGHT]

    const int column = threadIdx.x, thread = threadIdx.y * TILE_WIDTH + threadIdx.x;
    const int left = blockIdx.x * TILE_WIDTH, top = blockIdx.y * TILE_HEIGHT;
    const size_t plane = static_cast<size_t>(height) * width;
    const Value* image = maps + blockIdx.z * channels * plane;
    const float least = settings->least;

    for (int row = thread; row < TILE_HEIGHT; row += TILE_WIDTH * blockDim.y) bits[row] = 0;

    for (int first = 0; first < rows; first += BAND) {
        const int end = min(BAND, rows - first);
        for (int row = threadIdx.y; row < end; row += blockDim.y) {
            const int y = top - radius + first + row;
            for (int offset = column; offset < span; offset += TILE_WIDTH) {
                const int x = left - radius + offset;
                const bool inside = y >= 0 && y < height && x >= 0 && x < width;
                band[row * span + offset] =
                    inside ? largest(image + static_cast<size_t>(y) * width + x, channels, plane) : nothing();
            }
        }
        __syncthreads();
        for (int row = threadIdx.y; row < end; row += blockDim.y) {
            const float* pixel = band + row * span + radius + column;
            const float value = *pixel;
            float before = nothing(), after = nothing();
            for (int d = 1; d <= radius; ++d) {
                before = fmaxf(before, pixel[-d]);
                after = fmaxf(after, pixel[d]);
            }
            across[(first + row) * TILE_WIDTH + column] = fmaxf(value, fmaxf(before, after));
            const int own = first + row - radius;
            if (own >= 0 && own < TILE_HEIGHT) {
                const bool stands = value >= least && value > before && value >= after;
                candidates[own * TILE_WIDTH + column] = stands ? value : nothing();
            }
        }
        __syncthreads();
    }

    const int x = left + column;
    for (int row = threadIdx.y; row < TILE_HEIGHT; row += blockDim.y) {
        const float value = candidates[row * TILE_WIDTH + column];
        if (value == nothing() || top + row >= settings->height || x >= settings->width) continue;
        const float* middle = across + (row + radius) * TILE_WIDTH + column;
        bool stands = true;
        for (int d = 1; stands && d <= radius; ++d) {
            stands = value > middle[-d * TILE_WIDTH] && value >= middle[d * TILE_WIDTH];
        }
        if (stands) atomicOr(&bits[row], 1u << column);
    }
    __syncthreads();

    for (int row = thread; row < TILE_HEIGHT && top + row < height; row += TILE_WIDTH * blockDim.y) {
        const size_t line = static_cast<size_t>(blockIdx.z) * height + top + row;
        marks[line * gridDim.x + blockIdx.x] = bits[row];
        if (bits[row]) atomicAdd(&row_counts[line], __popc(bits[row]));
    }
}

// Writes the nuclei in raster order, image after image: nuclei [capacity], and in starts [images + 1] the number of
// nuclei before each image and of all, true also when it exceeds the capacity. One block per row of marks.
template <typename Value>
__device__ void gather(
    const Value* maps, int images, int channels, int height, int width, int words, const unsigned* marks,
    const int* row_counts, int capacity, int* starts, Nucleus* nuclei) {
    const int thread = threadIdx.x, line = blockIdx.x, image = line / height, y = line % height;
    const bool last = line == images * height - 1;
    const int here = row_counts[line];
    if (here == 0 && y != 0 && !last) return;

    int sum = 0;
    for (int other = thread; other < line; other += GATHER_THREADS) sum += row_counts[other];
    shared_memory[thread] = sum;
    __syncthreads();
    for (int half = GATHER_THREADS / 2; half > 0; half /= 2) {
        if (thread < half) shared_memory[thread] += shared_memory[thread + half];
        __syncthreads();
    }
    int before = shared_memory[0];
    if (thread == 0 && y == 0) starts[image] = before;
    if (thread == 0 && last) starts[images] = before + here;
    if (here == 0) return;

    const size_t plane = static_cast<size_t>(height) * width;
    const Value* pixels = maps + image * channels * plane + static_cast<size_t>(y) * width;
    for (int first = 0; first < words; first += GATHER_THREADS) {
        const int at = first + thread;
        unsigned word = at < words ? marks[static_cast<size_t>(line) * words + at] : 0;
        const int own = __popc(word);
        __syncthreads();  // all threads have read the previous sums
        shared_memory[thread] = own;
        __syncthreads();
        for (int step = 1; step < GATHER_THREADS; step *= 2) {
            const int earlier = thread >= step ? shared_memory[thread - step] : 0;
            __syncthreads();
            shared_memory[thread] += earlier;
            __syncthreads();
        }
        int position = before + shared_memory[thread] - own;
        before += shared_memory[GATHER_THREADS - 1];
        for (; word; word &= word - 1, ++position) {
            if (position >= capacity) break;
            const int x = at * TILE_WIDTH + __ffs(word) - 1;
            const float score = largest(pixels + x, channels, plane);
            int cls = 0;
            while (!(number(pixels[cls * plane + x]) == score)) ++cls;
            nuclei[position] = {static_cast<float>(x), static_cast<float>(y), score, static_cast<float>(cls)};
        }
    }
}

extern "C" __global__ void peaks_mark_float32(
    const float* maps, int channels, int height, int width, int radius, const Settings* settings, unsigned* marks,
    int* row_counts) {
    mark(maps, channels, height, width, radius, settings, marks, row_counts);
}

extern "C" __global__ void peaks_mark_float16(
    const unsigned short* maps, int channels, int height, int width, int radius, const Settings* settings,
    unsigned* marks, int* row_counts) {
    mark(maps, channels, height, width, radius, settings, marks, row_counts);
}

extern "C" __global__ void peaks_gather_float32(
    const float* maps, int images, int channels, int height, int width, int words, const unsigned* marks,
    const int* row_counts, int capacity, int* starts, Nucleus* nuclei) {
    gather(maps, images, channels, height, width, words, marks, row_counts, capacity, starts, nuclei);
}

extern "C" __global__ void peaks_gather_float16(
    const unsigned short* maps, int images, int channels, int height, int width, int words, const unsigned* marks,
    const int* row_counts, int capacity, int* starts, Nucleus* nuclei) {
    gather(maps, images, channels, height, width, words, marks, row_counts, capacity, starts, nuclei);
}

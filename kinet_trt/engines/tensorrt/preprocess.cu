// Prepares a frame in device memory as the model's input, as fit in frame.py does: scaled, padded, RGB, uint8 [H, W, 3].
//
// Each thread computes one target pixel. Pixels in the padding use the nearest pixel inside, so the last row and
// column are repeated. The arithmetic is OpenCV's, step by step: 11-bit fixed point for upscaling, float32 in
// its order of summation for downscaling. A flag records whether the frame has any colour, as Frame.is_grey does.
//
// The same text compiles with a C++ compiler behind tests/cuda_shim.h.

extern __shared__ int shared_memory[];

constexpr int GREY_SPREAD = 8;  // also in frame.py

// A frame with any strides: channels may come in any order, rows may be padded or run upwards.
struct Source {
    const unsigned char* pixels;
    long long row, pixel;           // bytes from one to the next
    long long red, green, blue;     // bytes from the pixel's address
    int height, width;
};

// For each target row or column its first source row or column and the weights from there on; indices beyond the
// source mean its edge.
template <typename Weight>
struct Axis {
    const int* first;
    const Weight* weights;
    int taps;
};

template <typename Number>
struct Colour {
    Number red, green, blue;
};

__device__ inline int clip(int index, int size) { return max(0, min(index, size - 1)); }

__device__ inline Colour<int> pixel_at(const Source& source, int y, int x, bool& coloured) {
    const unsigned char* at = source.pixels + y * source.row + x * source.pixel;
    const int red = at[source.red], green = at[source.green], blue = at[source.blue];
    coloured |= max(red, max(green, blue)) - min(red, min(green, blue)) > GREY_SPREAD;
    return {red, green, blue};
}

// cv2.INTER_LINEAR for uint8: weights of 2048, the row sums cut by 4 bits before the columns are weighed.
struct Linear {
    Axis<int> down, across;

    __device__ Colour<int> operator()(const Source& source, int y, int x, bool& coloured) const {
        Colour<int> sum = {2, 2, 2};  // half of what the last shift cuts
        for (int i = 0; i < 2; ++i) {
            const int from = clip(down.first[y] + i, source.height), weight = down.weights[2 * y + i];
            Colour<int> line = {0, 0, 0};
            for (int j = 0; j < 2; ++j) {
                const auto value = pixel_at(source, from, clip(across.first[x] + j, source.width), coloured);
                const int share = across.weights[2 * x + j];
                line.red += value.red * share;
                line.green += value.green * share;
                line.blue += value.blue * share;
            }
            sum.red += weight * (line.red >> 4) >> 16;
            sum.green += weight * (line.green >> 4) >> 16;
            sum.blue += weight * (line.blue >> 4) >> 16;
        }
        return {sum.red >> 2, sum.green >> 2, sum.blue >> 2};
    }
};

// cv2.INTER_AREA by a non-integer factor.
struct Area {
    Axis<float> down, across;

    __device__ Colour<int> operator()(const Source& source, int y, int x, bool& coloured) const {
        Colour<float> sum = {0, 0, 0};
        for (int i = 0; i < down.taps; ++i) {
            const int from = clip(down.first[y] + i, source.height);
            const float weight = down.weights[down.taps * y + i];
            Colour<float> line = {0, 0, 0};
            for (int j = 0; j < across.taps; ++j) {
                const auto value = pixel_at(source, from, clip(across.first[x] + j, source.width), coloured);
                const float share = across.weights[across.taps * x + j];
                line.red += value.red * share;
                line.green += value.green * share;
                line.blue += value.blue * share;
            }
            sum.red += weight * line.red;
            sum.green += weight * line.green;
            sum.blue += weight * line.blue;
        }
        return {
            clip(__float2int_rn(sum.red), 256), clip(__float2int_rn(sum.green), 256),
            clip(__float2int_rn(sum.blue), 256)};
    }
};

// cv2.INTER_AREA by integer factors: block means, which round halves to even, except 2 x 2 blocks, which round up.
struct Blocks {
    int down, across;

    __device__ int mean(int sum) const {
        if (down == 2 && across == 2) return sum + 2 >> 2;
        return __float2int_rn(sum * (1.0f / (down * across)));
    }

    __device__ Colour<int> operator()(const Source& source, int y, int x, bool& coloured) const {
        Colour<int> sum = {0, 0, 0};
        for (int i = 0; i < down; ++i) {
            for (int j = 0; j < across; ++j) {
                const auto value = pixel_at(source, y * down + i, x * across + j, coloured);
                sum.red += value.red;
                sum.green += value.green;
                sum.blue += value.blue;
            }
        }
        return {mean(sum.red), mean(sum.green), mean(sum.blue)};
    }
};

struct Copy {
    __device__ Colour<int> operator()(const Source& source, int y, int x, bool& coloured) const {
        return pixel_at(source, y, x, coloured);
    }
};

// own_height x own_width px without the padding, height x width with it; *coloured is set to 1 or left unchanged.
template <typename Scaling>
__device__ void prepare(
    const Source& source, const Scaling& scaling, int own_height, int own_width, int height, int width,
    unsigned char* target, int* coloured) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    const bool first = threadIdx.x == 0 && threadIdx.y == 0;
    if (first) shared_memory[0] = 0;
    __syncthreads();
    if (x < width && y < height) {
        bool seen = false;
        const Colour<int> value = scaling(source, min(y, own_height - 1), min(x, own_width - 1), seen);
        unsigned char* at = target + (static_cast<size_t>(y) * width + x) * 3;
        at[0] = static_cast<unsigned char>(value.red);
        at[1] = static_cast<unsigned char>(value.green);
        at[2] = static_cast<unsigned char>(value.blue);
        if (seen) shared_memory[0] = 1;  // all writers write the same value
    }
    __syncthreads();
    if (first && shared_memory[0]) *coloured = 1;
}

extern "C" __global__ void prepare_copy(
    const unsigned char* pixels, long long row, long long pixel, long long red, long long green, long long blue,
    int source_height, int source_width, int own_height, int own_width, int height, int width, unsigned char* target,
    int* coloured) {
    const Source source = {pixels, row, pixel, red, green, blue, source_height, source_width};
    prepare(source, Copy{}, own_height, own_width, height, width, target, coloured);
}

extern "C" __global__ void prepare_linear(
    const unsigned char* pixels, long long row, long long pixel, long long red, long long green, long long blue,
    int source_height, int source_width, int own_height, int own_width, int height, int width, unsigned char* target,
    int* coloured, const int* down, const int* down_weights, const int* across, const int* across_weights) {
    const Source source = {pixels, row, pixel, red, green, blue, source_height, source_width};
    const Linear scaling = {{down, down_weights, 2}, {across, across_weights, 2}};
    prepare(source, scaling, own_height, own_width, height, width, target, coloured);
}

extern "C" __global__ void prepare_area(
    const unsigned char* pixels, long long row, long long pixel, long long red, long long green, long long blue,
    int source_height, int source_width, int own_height, int own_width, int height, int width, unsigned char* target,
    int* coloured, const int* down, const float* down_weights, int down_taps, const int* across,
    const float* across_weights, int across_taps) {
    const Source source = {pixels, row, pixel, red, green, blue, source_height, source_width};
    const Area scaling = {{down, down_weights, down_taps}, {across, across_weights, across_taps}};
    prepare(source, scaling, own_height, own_width, height, width, target, coloured);
}

extern "C" __global__ void prepare_blocks(
    const unsigned char* pixels, long long row, long long pixel, long long red, long long green, long long blue,
    int source_height, int source_width, int own_height, int own_width, int height, int width, unsigned char* target,
    int* coloured, int down, int across) {
    const Source source = {pixels, row, pixel, red, green, blue, source_height, source_width};
    prepare(source, Blocks{down, across}, own_height, own_width, height, width, target, coloured);
}

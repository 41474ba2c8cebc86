// CUDA C++ on a CPU, for tests: enough to compile the package's .cu files with a C++ compiler and run their kernels.
//
// Each CUDA thread of a block is a fiber. __syncthreads() gives the turn to the next one, and none goes on before all
// have arrived, as on the device. What the device leaves open is drawn from a seed: the order of the blocks, and that
// of the threads between two barriers; a kernel with a race gives another result under another seed. Shared memory is
// full of NaN when a block starts and is watched for writes beyond its end. A block of which some threads wait at a
// barrier while others have ended is reported, not run on.

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __restrict__
#define __launch_bounds__(...)

using std::max;
using std::min;

struct dim3 {
    unsigned x, y, z;
};

dim3 threadIdx, blockIdx, blockDim, gridDim;

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline int __popc(unsigned word) { return __builtin_popcount(word); }
inline int __ffs(unsigned word) { return __builtin_ffs(static_cast<int>(word)); }
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }
inline int atomicAdd(int* at, int value) { return std::exchange(*at, *at + value); }
inline unsigned atomicOr(unsigned* at, unsigned value) { return std::exchange(*at, *at | value); }

namespace shim {
constexpr unsigned SHARED_BYTES = 48 << 10, GUARD_BYTES = 4 << 10, STACK_BYTES = 64 << 10;
}

// The dynamic shared memory of every kernel; each .cu file declares it again.
alignas(16) int shared_memory[(shim::SHARED_BYTES + shim::GUARD_BYTES) / sizeof(int)];

namespace shim {

constexpr unsigned char FULL = 0xff, GUARD = 0xa5;  // four bytes of 0xff are a NaN

enum Outcome { DONE = 0, SHARED_TOO_LARGE = 1, SHARED_OVERRUN = 2, BARRIER_DIVERGED = 3 };

struct Fiber {
    jmp_buf at;
    ucontext_t start;
    dim3 index;
    bool started, ended;
};

jmp_buf scheduler;
Fiber* current;
void (*body)(void**);
void** arguments;

inline void enter() {
    body(arguments);
    current->ended = true;
    _longjmp(scheduler, 1);
}

__attribute__((noinline)) void resume(Fiber& fiber) {
    current = &fiber;
    threadIdx = fiber.index;
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

inline Outcome run_block(std::vector<Fiber>& fibers, std::vector<unsigned char>& stacks, std::mt19937& random) {
    std::vector<size_t> order(fibers.size());
    std::iota(order.begin(), order.end(), size_t{0});
    for (size_t i = 0; i < fibers.size(); ++i) {
        Fiber& fiber = fibers[i];
        fiber.started = fiber.ended = false;
        const unsigned n = static_cast<unsigned>(i);
        fiber.index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y)};
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = &stacks[i * STACK_BYTES];
        fiber.start.uc_stack.ss_size = STACK_BYTES;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, enter, 0);
    }
    for (;;) {
        std::shuffle(order.begin(), order.end(), random);
        size_t ended = 0;
        for (size_t i : order) {
            resume(fibers[i]);
            ended += fibers[i].ended;
        }
        if (ended == fibers.size()) return DONE;
        if (ended) return BARRIER_DIVERGED;
    }
}

inline int launch(
    void (*kernel)(void**), const unsigned* grid, const unsigned* block, unsigned shared_bytes, void** given,
    unsigned seed) {
    if (shared_bytes > SHARED_BYTES) return SHARED_TOO_LARGE;
    std::mt19937 random(seed);
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    body = kernel;
    arguments = given;
    std::vector<Fiber> fibers(size_t{block[0]} * block[1] * block[2]);
    std::vector<unsigned char> stacks(fibers.size() * STACK_BYTES);
    std::vector<size_t> blocks(size_t{grid[0]} * grid[1] * grid[2]);
    std::iota(blocks.begin(), blocks.end(), size_t{0});
    std::shuffle(blocks.begin(), blocks.end(), random);
    unsigned char* memory = reinterpret_cast<unsigned char*>(shared_memory);
    for (size_t i : blocks) {
        const unsigned n = static_cast<unsigned>(i);
        blockIdx = {n % grid[0], n / grid[0] % grid[1], n / (grid[0] * grid[1])};
        std::memset(memory, FULL, shared_bytes);
        std::memset(memory + shared_bytes, GUARD, GUARD_BYTES);
        if (const Outcome outcome = run_block(fibers, stacks, random); outcome != DONE) return outcome;
        for (unsigned at = shared_bytes; at < shared_bytes + GUARD_BYTES; ++at) {
            if (memory[at] != GUARD) return SHARED_OVERRUN;
        }
    }
    return DONE;
}

// Arguments as cuLaunchKernel takes them: an array of pointers to each.
template <typename... Types, size_t... Indices>
void call(void (*kernel)(Types...), void** given, std::index_sequence<Indices...>) {
    kernel(*static_cast<std::decay_t<Types>*>(given[Indices])...);
}

template <typename... Types>
void call(void (*kernel)(Types...), void** given) {
    call(kernel, given, std::index_sequence_for<Types...>{});
}

}  // namespace shim

__attribute__((noinline)) void __syncthreads() {
    if (_setjmp(shim::current->at) == 0) _longjmp(shim::scheduler, 1);
}

#define EXPORT(kernel)                                                                                             \
    extern "C" int run_##kernel(                                                                                   \
        const unsigned* grid, const unsigned* block, unsigned shared_bytes, void** given, unsigned seed) {         \
        return shim::launch(                                                                                       \
            [](void** arguments) { shim::call(kernel, arguments); }, grid, block, shared_bytes, given, seed);      \
    }

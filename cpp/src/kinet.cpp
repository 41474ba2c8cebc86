// The C ABI: checks arguments, calls the counter, and converts exceptions to error codes and messages.
#include "kinet.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>

#include "counter.hpp"
#include "engine.hpp"
#include "error.hpp"

struct kinet_model {
    kinet::Counter counter;
};

static_assert(sizeof(kinet_nucleus) == sizeof(kinet::Nucleus), "a buffer is filled by memcpy");

namespace {

thread_local char last_error[2048] = "";  // not a std::string, whose allocation could fail

int32_t fail(int32_t code, const char* text) noexcept {
    std::snprintf(last_error, sizeof last_error, "%s", text);
    return code;
}

template <typename Work>
auto guarded(Work work) noexcept -> decltype(work()) {
    try {
        return work();
    } catch (const kinet::ArgumentError& error) {
        return fail(KINET_BAD_ARGUMENT, error.what());
    } catch (const kinet::ModelError& error) {
        return fail(KINET_BAD_MODEL, error.what());
    } catch (const std::bad_alloc&) {
        return fail(KINET_FAILED, "out of memory: count smaller parts, or fewer frames at a time");
    } catch (const std::exception& error) {
        return fail(KINET_FAILED, error.what());
    } catch (...) {
        return fail(KINET_FAILED, "unknown error in the runtime");
    }
}

void require(bool condition, const char* text) {
    if (!condition) throw kinet::ArgumentError(text);
}

}  // namespace

int32_t kinet_abi(void) { return KINET_ABI; }

const char* kinet_version(void) {
    thread_local char text[256];
    guarded([] {
        std::snprintf(text, sizeof text, "kinet %s, %s", KINET_VERSION, kinet::runtime_version().c_str());
        return 0;
    });
    return text;
}

int32_t kinet_open(const char* path, const kinet_options* options, kinet_model** model) {
    return guarded([&]() -> int32_t {
        require(model != nullptr, "model: expected an address for the model, found a null pointer");
        *model = nullptr;
        require(path != nullptr, "path: expected a model file, found a null pointer");
        kinet::Options chosen;
        if (options) {
            require(options->size >= sizeof(kinet_options), "options: expected size to be sizeof(kinet_options)");
            chosen.threads = options->threads;
            if (options->device) chosen.device = options->device;
            if (options->precision) chosen.precision = options->precision;
        }
        *model = new kinet_model{kinet::Counter(path, chosen)};
        return 0;
    });
}

int32_t kinet_info(const kinet_model* model, kinet_about* about) {
    return guarded([&]() -> int32_t {
        require(model != nullptr, "model: expected an open model, found a null pointer");
        require(about && about->size >= sizeof about->size, "about: expected size to be sizeof(kinet_about)");
        const kinet::Card& card = model->counter.card();
        kinet_about all{};
        all.size = std::min<uint32_t>(about->size, sizeof all);
        all.classes = static_cast<int32_t>(card.classes.size());
        all.mpp = card.mpp;
        all.threshold = card.threshold;
        all.capacity = card.capacity;
        all.multiple = card.multiple;
        all.tile = card.tile;
        all.halo = card.halo;
        std::memcpy(about, &all, all.size);
        return 0;
    });
}

const char* kinet_class(const kinet_model* model, int32_t cls) {
    if (!model || cls < 0 || cls >= static_cast<int32_t>(model->counter.card().classes.size())) return nullptr;
    return model->counter.card().classes[static_cast<size_t>(cls)].c_str();
}

int64_t kinet_count(kinet_model* model, const uint8_t* pixels, int32_t order, int32_t width, int32_t height,
                    int64_t stride, float threshold, kinet_nucleus* nuclei, int32_t room, int32_t* written) {
    const double mpp = model ? model->counter.card().mpp : 0;
    return kinet_count_at(model, pixels, order, width, height, stride, mpp, threshold, nuclei, room, written);
}

int64_t kinet_count_at(kinet_model* model, const uint8_t* pixels, int32_t order, int32_t width, int32_t height,
                       int64_t stride, double mpp, float threshold, kinet_nucleus* nuclei, int32_t room,
                       int32_t* written) {
    return guarded([&]() -> int64_t {
        if (written) *written = 0;
        require(model != nullptr, "model: expected an open model, found a null pointer");
        require(order == KINET_RGB || order == KINET_BGR, "order: expected KINET_RGB or KINET_BGR");
        require(room >= 0 && (nuclei || room == 0), "nuclei: expected a buffer and its room, or a null pointer and 0");
        const kinet::Image image{pixels, width, height, stride, order == KINET_BGR};
        const kinet::Found found = model->counter.count_at(image, mpp, threshold);
        const size_t n = std::min(found.nuclei.size(), static_cast<size_t>(room));
        if (n) std::memcpy(nuclei, found.nuclei.data(), n * sizeof *nuclei);
        if (written) *written = static_cast<int32_t>(n);
        return found.count;
    });
}

void kinet_close(kinet_model* model) {
    guarded([&] {
        delete model;
        return 0;
    });
}

const char* kinet_error(void) { return last_error; }

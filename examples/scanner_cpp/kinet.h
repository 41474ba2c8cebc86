/*
 * kinet.h: count nuclei in Ki67-stained tissue, from C or from anything that calls C.
 *
 * A model that was built with `kinet-trt build --fused` in, a frame in, nuclei out. No Python.
 *
 * Scale. kinet_count_at takes the um/px of the frame and scales it to the model's (kinet_about.mpp; 0.34 for
 * kinet-edge). kinet_count expects a frame that has the model's um/px already: at another scale the counts are wrong.
 *
 * Size. Any frame from 32 px a side on. Inside it is padded at the bottom and right by repeating its last row and
 * column, and what is found there is dropped. What is larger than a tile with its halo (1,312 px a side for kinet-edge)
 * is counted in tiles, each nucleus by the one tile that owns its place: the nuclei are those of the whole frame.
 *
 * Threads. Several threads may count with one model at the same time; OpenVINO runs them side by side, TensorRT one
 * after the other. kinet_open, kinet_info and kinet_class may be called from any thread at any time. Close a model once,
 * when nobody is counting with it any more. The text of the last error belongs to the thread that made the error.
 *
 * Errors. What returns an int32_t or int64_t returns a negative KINET_* on failure, and kinet_error() says in words what
 * was expected, what was found and what to do. No exception leaves this library.
 *
 * Stability. Within one KINET_ABI functions, fields and values keep their meaning; functions are only added, and fields
 * only at the end of the two structs that begin with their own size.
 *
 * For Research Use Only. Not for use in diagnostic procedures.
 */
#ifndef KINET_H
#define KINET_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(KINET_BUILDING)
#define KINET_API __declspec(dllexport)
#elif defined(_WIN32)
#define KINET_API __declspec(dllimport)
#else
#define KINET_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define KINET_ABI 1

#define KINET_BAD_ARGUMENT (-1) /* the call makes no sense: a null pointer, a stride shorter than a row */
#define KINET_BAD_MODEL (-2)    /* the model is missing, damaged, not fused, or not for this library */
#define KINET_FAILED (-3)       /* memory or the runtime below failed */

#define KINET_RGB 0 /* orders of the channels */
#define KINET_BGR 1

typedef struct kinet_model kinet_model;

/* How to run a model. Begin with {sizeof(kinet_options)}: all else zero is the default. */
typedef struct kinet_options {
    uint32_t size;         /* sizeof(kinet_options) */
    int32_t threads;       /* CPU threads of one count; 0: the runtime decides. TensorRT has no use for it */
    const char *device;    /* NULL: "CPU" (OpenVINO) or "0", the first GPU (TensorRT); else a name that those know */
    const char *precision; /* NULL: "fp32", which gives what Python gives in FP32, to the last nucleus. "bf16" is faster
                              on CPUs with AMX and finds a few other nuclei; "fp16". TensorRT: NULL, it is in the plan */
} kinet_options;

/* What a model says of itself. Set size before the call; fields beyond it are not written. */
typedef struct kinet_about {
    uint32_t size;     /* sizeof(kinet_about) */
    int32_t classes;   /* how many; kinet_class gives their names */
    double mpp;        /* um/px that kinet_count expects of a frame */
    float threshold;   /* least height of a peak, chosen on validation fields */
    int32_t capacity;  /* nuclei that the model has room for, in a frame or in each tile of a larger one */
    int32_t multiple;  /* height and width are padded to multiples of this many px */
    int32_t tile;      /* larger frames are counted in tiles of about this side, px */
    int32_t halo;      /* with so many px about each: what lies further has no influence */
} kinet_about;

/* x to the right and y down, px of the frame that came in, centres of pixels at integers. */
typedef struct kinet_nucleus {
    float x, y;
    float score;  /* height of the peak: about 1 for a certain nucleus */
    int32_t cls;  /* index of its class: kinet_class */
} kinet_nucleus;

/* KINET_ABI of the library that is loaded. Compare it with KINET_ABI before anything else. */
KINET_API int32_t kinet_abi(void);

/* Version of the library and of the runtime below it, in words. */
KINET_API const char *kinet_version(void);

/* Open a model. Path: a fused .onnx (OpenVINO), or a fused .engine with its .engine.json beside it (TensorRT). Options:
 * NULL for the default. Returns 0 and sets *model. */
KINET_API int32_t kinet_open(const char *path, const kinet_options *options, kinet_model **model);

/* Describe a model. Returns 0. */
KINET_API int32_t kinet_info(const kinet_model *model, kinet_about *about);

/* Name of a class, valid until the model is closed; NULL if there is no such class. */
KINET_API const char *kinet_class(const kinet_model *model, int32_t cls);

/* Count a frame.
 *
 * pixels     uint8, three channels a pixel, the first row first
 * order      KINET_RGB or KINET_BGR
 * width, height  px
 * stride     bytes from one row to the next, at least 3 * width, or negative for a picture stored upside down; pixels
 *            then points to the upper row all the same
 * threshold  least height of a peak; NaN: the model's own
 * nuclei     the caller's, room for this many; NULL and 0 to have them counted only
 * written    how many were written, in raster order; may be NULL
 *
 * Returns the number of nuclei. Where it is larger than *written, only some are in the buffer: the first ones, where the
 * buffer has no room for all; the first ones of a tile, where the model has none (more than capacity there; the number
 * then includes those of the tile's padding and halo that have no place, so it may be somewhat too high).
 * A picture without any colour holds no stain to tell nuclei by: 0. */
KINET_API int64_t kinet_count(kinet_model *model, const uint8_t *pixels, int32_t order, int32_t width, int32_t height,
                              int64_t stride, float threshold, kinet_nucleus *nuclei, int32_t room, int32_t *written);

/* Count a frame of any um/px: as kinet_count, but the frame is scaled to the model's um/px first, by area averages where
 * it shrinks and half-pixel bilinear where it grows. Places are px of the frame that came in.
 *
 * mpp  um/px of the frame, more than 0 */
KINET_API int64_t kinet_count_at(kinet_model *model, const uint8_t *pixels, int32_t order, int32_t width, int32_t height,
                                 int64_t stride, double mpp, float threshold, kinet_nucleus *nuclei, int32_t room,
                                 int32_t *written);

/* Close a model; NULL does nothing. */
KINET_API void kinet_close(kinet_model *model);

/* What the last failed call of this thread has to say; "" if none failed. Valid until this thread's next failed call. */
KINET_API const char *kinet_error(void);

#ifdef __cplusplus
}
#endif

#endif

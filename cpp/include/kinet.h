/*
 * kinet.h: count nuclei in Ki67-stained tissue from C, or from any language that can call C.
 *
 * Takes models built with `kinet-trt build --fused`. Python is not needed.
 *
 * Scale. kinet_count_at takes the um/px of the frame and scales the frame to that of the model (kinet_about.mpp; 0.34
 * for kinet-edge). kinet_count does not scale: the frame must have the model's um/px, else the counts are wrong.
 *
 * Size. Any frame of at least 32 px per side. It is padded internally at the bottom and right by repeating its last row
 * and column; peaks in the padding are dropped. A frame larger than a tile with its halo (1,312 px per side for
 * kinet-edge) is counted in tiles, each nucleus once: the nuclei are those of the whole frame.
 *
 * Threads. Several threads may count with one model at the same time; OpenVINO runs them in parallel, TensorRT one
 * after the other. kinet_open, kinet_info and kinet_class are thread-safe. Close a model once, when no thread uses it. Error
 * messages are thread-local.
 *
 * Errors. Functions that return int32_t or int64_t return a negative KINET_* code on failure; kinet_error() returns the
 * message. No exception leaves this library.
 *
 * Stability. Within one KINET_ABI functions, fields and values keep their meaning; functions may be added,
 * and fields only at the end of the two structs that begin with their own size.
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

#define KINET_BAD_ARGUMENT (-1) /* invalid argument, such as a null pointer or a stride shorter than a row */
#define KINET_BAD_MODEL (-2)    /* model missing, damaged, not fused, or not for this library */
#define KINET_FAILED (-3)       /* out of memory, or an error of the runtime */

#define KINET_RGB 0 /* channel orders */
#define KINET_BGR 1

typedef struct kinet_model kinet_model;

/* Options of kinet_open. Initialise with {sizeof(kinet_options)}: all other members zero are the defaults. */
typedef struct kinet_options {
    uint32_t size;         /* sizeof(kinet_options) */
    int32_t threads;       /* CPU threads of one count; 0: the runtime decides. TensorRT ignores it */
    const char *device;    /* NULL: "CPU" (OpenVINO) or "0", the first GPU (TensorRT); else the runtime's name */
    const char *precision; /* NULL: "fp32", with the same nuclei as Python in FP32. "bf16" is faster on CPUs with AMX
                              and finds slightly different nuclei; "fp16". TensorRT: NULL, the plan defines it */
} kinet_options;

/* Properties of a model. Set size before the call; members beyond it are not written. */
typedef struct kinet_about {
    uint32_t size;     /* sizeof(kinet_about) */
    int32_t classes;   /* number of classes; kinet_class returns their names */
    double mpp;        /* um/px of the frames that kinet_count expects */
    float threshold;   /* minimum height of a peak, chosen on validation fields */
    int32_t capacity;  /* maximum number of nuclei in a frame, or in each tile of a larger one */
    int32_t multiple;  /* height and width are padded to multiples of this many px */
    int32_t tile;      /* approximate side of the tiles of larger frames, px */
    int32_t halo;      /* context around each tile, px: pixels farther away have no influence */
} kinet_about;

/* A nucleus. x to the right and y down, in px of the input frame; pixel centres are at integers. */
typedef struct kinet_nucleus {
    float x, y;
    float score;  /* height of the peak, about 1 for a clear nucleus */
    int32_t cls;  /* index of its class: kinet_class */
} kinet_nucleus;

/* KINET_ABI of the loaded library. Compare it with KINET_ABI before any other call. */
KINET_API int32_t kinet_abi(void);

/* Version of the library and of its runtime, as text. */
KINET_API const char *kinet_version(void);

/* Open a model. path: a fused .onnx (OpenVINO), or a fused .engine with its .engine.json beside it (TensorRT). options:
 * NULL for the defaults. Returns 0 and sets *model. */
KINET_API int32_t kinet_open(const char *path, const kinet_options *options, kinet_model **model);

/* Get the properties of a model. Returns 0. */
KINET_API int32_t kinet_info(const kinet_model *model, kinet_about *about);

/* Name of a class, valid until the model is closed; NULL if there is no such class. */
KINET_API const char *kinet_class(const kinet_model *model, int32_t cls);

/* Count a frame.
 *
 * pixels     uint8, three channels per pixel, first row first
 * order      KINET_RGB or KINET_BGR
 * width, height  px
 * stride     bytes from one row to the next, at least 3 * width, or negative for an image stored upside down; pixels
 *            then still points to the upper row
 * threshold  minimum height of a peak; NaN: that of the model
 * nuclei     buffer for `room` nuclei; NULL and 0 to get only their number
 * written    number of nuclei written, in raster order; may be NULL
 *
 * Returns the number of nuclei. If it is larger than *written, the buffer has only some of them: the first ones if the
 * buffer is too small; the first ones of a tile if that tile exceeds the model's capacity. In the latter case the
 * number includes unplaced peaks in the tile's padding and halo, so it may be slightly too high.
 * Returns 0 for an image without colour, since it has no stain. */
KINET_API int64_t kinet_count(kinet_model *model, const uint8_t *pixels, int32_t order, int32_t width, int32_t height,
                              int64_t stride, float threshold, kinet_nucleus *nuclei, int32_t room, int32_t *written);

/* Count a frame of any um/px: as kinet_count, but the frame is first scaled to the model's um/px, by area averaging
 * when shrinking and half-pixel bilinear interpolation when enlarging. Coordinates are px of the input frame.
 *
 * mpp  um/px of the frame, > 0 */
KINET_API int64_t kinet_count_at(kinet_model *model, const uint8_t *pixels, int32_t order, int32_t width, int32_t height,
                                 int64_t stride, double mpp, float threshold, kinet_nucleus *nuclei, int32_t room,
                                 int32_t *written);

/* Close a model; NULL does nothing. */
KINET_API void kinet_close(kinet_model *model);

/* Message of the last failed call of this thread; "" if none failed. Valid until this thread's next failed call. */
KINET_API const char *kinet_error(void);

#ifdef __cplusplus
}
#endif

#endif

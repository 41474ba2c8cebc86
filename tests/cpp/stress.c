/* Invalid calls and concurrent ones, from C: built with sanitizers, which end it at the first access out of bounds.
 *
 * stress MODEL WIDTH HEIGHT FIELD.rgb: prints the number of nuclei, which must be the same in all calls. */
#define _POSIX_C_SOURCE 200809L
#include <kinet.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(holds)                                                                       \
    do {                                                                                   \
        if (!(holds)) {                                                                    \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #holds, kinet_error());         \
            exit(1);                                                                       \
        }                                                                                  \
    } while (0)

static kinet_model *model;
static unsigned char *pixels;
static int32_t width, height;
static int64_t expected;

/* Count into a buffer of exactly this size. */
static int64_t count(int32_t room, int32_t *written) {
    kinet_nucleus *nuclei = room ? malloc((size_t)room * sizeof *nuclei) : NULL;
    int64_t n = kinet_count(model, pixels, KINET_RGB, width, height, 3 * (int64_t)width, NAN, nuclei, room, written);
    for (int32_t i = 0; written && i < *written; i++) {
        CHECK(nuclei[i].x >= 0 && nuclei[i].x < (float)width && nuclei[i].y >= 0 && nuclei[i].y < (float)height);
        CHECK(kinet_class(model, nuclei[i].cls) != NULL);
    }
    free(nuclei);
    return n;
}

static void *worker(void *own) {
    char text[64];
    kinet_model *none = NULL;
    for (int i = 0; i < 3; i++) {
        int32_t written = -1;
        CHECK(count((int32_t)expected, &written) == expected && written == expected);
        snprintf(text, sizeof text, "missing-%ld.onnx", (long)(size_t)own);
        CHECK(kinet_open(text, NULL, &none) == KINET_BAD_MODEL && none == NULL);
        CHECK(strstr(kinet_error(), text) != NULL); /* and not that of another thread */
    }
    return NULL;
}

static void expect_error(int64_t code, const char *words) {
    if (code >= 0 || !strstr(kinet_error(), words)) {
        fprintf(stderr, "expected an error with '%s', found %lld: %s\n", words, (long long)code, kinet_error());
        exit(1);
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 5);
    width = atoi(argv[2]), height = atoi(argv[3]);
    const size_t size = 3 * (size_t)width * (size_t)height;
    pixels = malloc(size);
    FILE *file = fopen(argv[4], "rb");
    CHECK(pixels && file && fread(pixels, 1, size, file) == size);
    fclose(file);

    CHECK(kinet_abi() == KINET_ABI && strlen(kinet_version()) > 10 && !strcmp(kinet_error(), ""));
    kinet_options options = {sizeof options, 1, NULL, NULL};
    expect_error(kinet_open(NULL, NULL, &model), "path");
    expect_error(kinet_open(argv[1], NULL, NULL), "model");
    expect_error(kinet_open("model.txt", NULL, &model), ".onnx or .engine");
    expect_error(kinet_open(argv[4], NULL, &model), ".onnx or .engine");
    options.precision = "fp8";
    expect_error(kinet_open(argv[1], &options, &model), "fp32, bf16 or fp16");
    options.precision = NULL, options.threads = -1;
    expect_error(kinet_open(argv[1], &options, &model), "threads");
    options.threads = 1, options.device = "NOTHING";
    expect_error(kinet_open(argv[1], &options, &model), "NOTHING");
    options.device = NULL, options.size = 3;
    expect_error(kinet_open(argv[1], &options, &model), "size");
    options.size = sizeof options;
    CHECK(kinet_open(argv[1], &options, &model) == 0 && model);

    kinet_about about = {0};
    expect_error(kinet_info(model, &about), "size");
    expect_error(kinet_info(model, NULL), "about");
    expect_error(kinet_info(NULL, &about), "model");
    about.size = 8; /* a host built for a version with two fields */
    CHECK(kinet_info(model, &about) == 0 && about.size == 8 && about.classes == 3 && about.mpp == 0);
    about.size = sizeof about;
    CHECK(kinet_info(model, &about) == 0 && about.mpp > 0 && about.capacity > 0 && about.multiple == 16);
    CHECK(kinet_class(model, -1) == NULL && kinet_class(model, 3) == NULL && kinet_class(NULL, 0) == NULL);

    int32_t written = -1;
    const int64_t stride = 3 * (int64_t)width;
    kinet_nucleus one;
    expected = count(0, NULL);
    CHECK(expected > 10);
    CHECK(count(7, &written) == expected && written == 7);
    CHECK(count((int32_t)expected + 1, &written) == expected && written == expected);
    expect_error(kinet_count(NULL, pixels, KINET_RGB, width, height, stride, NAN, NULL, 0, NULL), "model");
    expect_error(kinet_count(model, NULL, KINET_RGB, width, height, stride, NAN, NULL, 0, NULL), "pixels");
    expect_error(kinet_count(model, pixels, 2, width, height, stride, NAN, NULL, 0, NULL), "order");
    expect_error(kinet_count(model, pixels, KINET_RGB, 31, height, stride, NAN, NULL, 0, NULL), "too small");
    expect_error(kinet_count(model, pixels, KINET_RGB, -width, height, stride, NAN, NULL, 0, NULL), "too small");
    expect_error(kinet_count(model, pixels, KINET_RGB, 1 << 20, 1 << 20, 3 << 20, NAN, NULL, 0, NULL), "too large");
    expect_error(kinet_count(model, pixels, KINET_RGB, INT32_MAX, INT32_MAX, INT64_MAX, NAN, NULL, 0, NULL), "too large");
    expect_error(kinet_count(model, pixels, KINET_RGB, width, height, stride - 1, NAN, NULL, 0, NULL), "stride");
    expect_error(kinet_count(model, pixels, KINET_RGB, width, height, INT64_MIN, NAN, NULL, 0, NULL), "stride");
    expect_error(kinet_count(model, pixels, KINET_RGB, width, height, stride, INFINITY, NULL, 0, NULL), "threshold");
    expect_error(kinet_count(model, pixels, KINET_RGB, width, height, stride, NAN, NULL, 1, NULL), "room");
    expect_error(kinet_count_at(model, pixels, KINET_RGB, width, height, stride, 0, NAN, NULL, 0, NULL), "mpp");
    expect_error(kinet_count_at(model, NULL, KINET_RGB, width, height, stride, 0.2, NAN, NULL, 0, NULL), "pixels");
    CHECK(kinet_count_at(model, pixels, KINET_RGB, width, height, stride, 0.25, NAN, NULL, 0, NULL) > 0);
    CHECK(kinet_count_at(model, pixels, KINET_RGB, width, height, stride, 0.51, NAN, NULL, 0, NULL) > 0);
    expect_error(kinet_count(model, pixels, KINET_RGB, width, height, stride, NAN, &one, -1, &written), "room");
    CHECK(written == 0);

    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, worker, (void *)i) == 0);
    for (size_t i = 0; i < 4; i++) pthread_join(threads[i], NULL);

    /* A second model beside the first, closed in the order of opening. */
    kinet_model *first = model;
    CHECK(kinet_open(argv[1], NULL, &model) == 0 && model != first);
    kinet_close(first);
    CHECK(count(0, NULL) == expected);
    kinet_close(model);
    kinet_close(NULL);
    free(pixels);
    printf("%lld\n", (long long)expected);
    return 0;
}

// count_field MODEL FIELD.ppm [THRESHOLD [MPP]]: print the nuclei of a field as CSV, coordinates in px.
//
// THRESHOLD: nan for that of the model. MPP: um/px of the field, defaults to that of the model.
// Exit status: 1 for an error, 2 for a usage error, 3 if a tile has more nuclei than the model's capacity.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <limits>
#include <stdexcept>

#include "counter.hpp"

namespace {

// Read a binary PPM with 8 bits per channel (`magick field.png field.ppm`).
std::vector<uint8_t> read_ppm(const std::string& path, kinet::Image& image) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int64_t depth = 0;
    const auto next = [&file]() -> std::ifstream& {
        while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
        return file;
    };
    file >> magic;
    next() >> image.width;
    next() >> image.height;
    next() >> depth;
    file.get();
    const bool valid_size = image.width > 0 && image.height > 0 && image.width <= 1 << 20 && image.height <= 1 << 20;
    if (!file || magic != "P6" || depth != 255 || !valid_size)
        throw std::runtime_error(path + ": expected a binary PPM (P6) with 8 bits per channel");
    image.stride = 3 * image.width;
    std::vector<uint8_t> pixels(static_cast<size_t>(image.stride * image.height));
    if (!file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size())))
        throw std::runtime_error(path + ": the image is truncated: copy it again");
    image.pixels = pixels.data();
    return pixels;
}

}  // namespace

int main(int argc, char** argv) try {
    char *end = nullptr, *mpp_end = nullptr;
    const float threshold = argc > 3 ? std::strtof(argv[3], &end) : NAN;
    const double mpp = argc > 4 ? std::strtod(argv[4], &mpp_end) : NAN;
    if (argc < 3 || argc > 5 || (end && (*end || end == argv[3])) || (mpp_end && (*mpp_end || mpp_end == argv[4]))) {
        std::fprintf(stderr, "usage: count_field MODEL FIELD.ppm [THRESHOLD [MPP]]\n");
        return 2;
    }
    const kinet::Counter counter(argv[1]);
    kinet::Image image;
    const std::vector<uint8_t> pixels = read_ppm(argv[2], image);
    const kinet::Found found = counter.count_at(image, argc > 4 ? mpp : counter.card().mpp, threshold);
    std::printf("x,y,class,score\n");
    for (const kinet::Nucleus& nucleus : found.nuclei)
        std::printf("%.9g,%.9g,%s,%.9g\n", nucleus.x, nucleus.y,
                    counter.card().classes.at(static_cast<size_t>(nucleus.cls)).c_str(), nucleus.score);
    if (found.count > static_cast<int64_t>(found.nuclei.size())) {
        std::fprintf(stderr, "%lld nuclei, above the model's capacity of %d in a tile; %zu printed: raise the threshold\n",
                     static_cast<long long>(found.count), counter.card().capacity, found.nuclei.size());
        return 3;
    }
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
}

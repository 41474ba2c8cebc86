// Model card: JSON in the metadata of an ONNX file, or in NAME.engine.json beside a TensorRT engine file (plan).
#pragma once

#include <string>
#include <vector>

namespace kinet {

struct Card {
    double mpp = 0;                    // um/px of the frames that the model takes
    float threshold = 0;               // minimum height of a peak
    int capacity = 0;                  // maximum number of nuclei in a frame or tile
    int multiple = 0;                  // alignment of height and width, px
    int min_side = 1;                  // smaller windows are padded to this many px
    int tile = 0, halo = 0;            // core of a tile and the context around it, px
    int whole_height = 0, whole_width = 0;  // plan: largest frame; larger ones are cut into tiles
    std::vector<std::string> classes;  // in the order of their indices
    std::string runtime, runtime_version;  // plan: runtime that built it
};

struct Model {
    Card card;
    std::string path, bytes;
    bool is_plan = false;
};

// Read a fused .onnx or .engine file and its card. The checksums of the model and of a card in ONNX are verified before
// the runtime reads the bytes; a card beside a plan has no checksum.
Model read_model(const std::string& path);

}  // namespace kinet

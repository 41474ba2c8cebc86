// The model card: what must be known to count with a model. It is JSON in the metadata of an ONNX file, or in
// NAME.engine.json beside a TensorRT plan.
#pragma once

#include <string>
#include <vector>

namespace kinet {

struct Card {
    double mpp = 0;                    // um/px that frames must have
    float threshold = 0;               // least height of a peak
    int capacity = 0;                  // nuclei of one frame that there is room for
    int multiple = 0;                  // height and width are multiples of this many px
    int least_side = 1;                // smaller windows are padded to this many px
    int tile = 0, halo = 0;            // core of a tile and the px about it that must be seen with it
    int whole_height = 0, whole_width = 0;  // of a plan: largest frame that it takes; larger ones are cut into tiles
    std::vector<std::string> classes;  // in the order of their numbers
    std::string runtime, runtime_version;  // of a plan: what built it
};

struct Model {
    Card card;
    std::string path, bytes;
    bool is_plan = false;
};

// Read a fused .onnx or .engine file and its card. The card's checksum (.onnx) and the model's are verified before
// anything else sees the bytes; the card beside a plan is taken as it stands.
Model read_model(const std::string& path);

}  // namespace kinet

#include "card.hpp"

#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "sha256.hpp"

namespace kinet {
namespace {

using nlohmann::json;

const char* const DAMAGED = "damaged, or not a model: copy or build it again";

bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file || bytes.empty()) throw ModelError("expected a readable file " + path + ", found none or an empty one");
    return bytes;
}

// Reader of the outermost level of an ONNX file, in protobuf: https://protobuf.dev/programming-guides/encoding

struct Field {
    uint64_t number;
    size_t start, value, end;
};

uint64_t read_varint(const std::string& bytes, size_t& at, size_t end) {
    uint64_t number = 0;
    for (int shift = 0; shift < 64 && at < end; shift += 7) {
        const auto byte = static_cast<uint8_t>(bytes[at++]);
        number |= static_cast<uint64_t>(byte & 0x7F) << shift;
        if (byte < 0x80) return number;
    }
    throw ModelError(DAMAGED);
}

std::vector<Field> read_fields(const std::string& bytes, size_t at, size_t end) {
    std::vector<Field> fields;
    while (at < end) {
        Field field{0, at, 0, 0};
        const uint64_t tag = read_varint(bytes, at, end);
        uint64_t length = 0;
        field.number = tag >> 3;
        switch (tag & 7) {
            case 0: field.value = at; read_varint(bytes, at, end); break;
            case 1: length = 8; break;
            case 2: length = read_varint(bytes, at, end); break;
            case 5: length = 4; break;
            default: throw ModelError(DAMAGED);
        }
        if ((tag & 7) != 0) field.value = at;
        if (field.number == 0 || length > end - at) throw ModelError(DAMAGED);
        at += static_cast<size_t>(length);
        field.end = at;
        fields.push_back(field);
    }
    return fields;
}

// Return the JSON text of the card in an ONNX file, after verifying its checksum, and the hash of the model.
std::string card_in_onnx(const std::string& onnx, std::string& digest) {
    Sha256 model;
    std::map<std::string, std::string> metadata;
    for (const Field& field : read_fields(onnx, 0, onnx.size())) {
        if (field.number != 14) {  // ModelProto.metadata_props is not part of the hash
            model.add(onnx.data() + field.start, field.end - field.start);
            continue;
        }
        std::string key, value;
        for (const Field& part : read_fields(onnx, field.value, field.end))
            (part.number == 1 ? key : value) = onnx.substr(part.value, part.end - part.value);
        metadata[key] = value;
    }
    if (!metadata.count("kinet_trt.card"))
        throw ModelError("no model card: expected an ONNX file written by kinet-trt build --fused");
    const std::string card = metadata["kinet_trt.card"];
    Sha256 own;
    own.add(card.data(), card.size());
    if (own.hex() != metadata["kinet_trt.card.sha256"]) throw ModelError(DAMAGED);
    digest = model.hex();
    return card;
}

[[noreturn]] void invalid_card(const std::string& expected) {
    throw ModelError("invalid model card: expected " + expected + ": build the model again");
}

double number(const json& card, const std::string& name, double min, double max) {
    const json value = card.value(name, json());
    if (!value.is_number() || !(value >= min && value <= max)) invalid_card("a valid number for " + name);
    return value.get<double>();
}

int integer(const json& card, const std::string& name, double min) {
    return static_cast<int>(number(card, name, min, 1 << 16));
}

Card parse_card(const json& values, bool is_plan) {
    if (number(values, "version", 1, 1e9) > 1)
        throw ModelError("the model card is newer than this library: build the library from a newer kinet-trt");
    if (!values.contains("capacity") || integer(values, "capacity", 0) < 1)
        throw ModelError("not a fused model, so its output is maps instead of nuclei: kinet-trt build --fused");
    Card card;
    card.mpp = number(values, "mpp", 0.01, 100);
    card.threshold = static_cast<float>(number(values, "threshold", -3e38, 3e38));
    card.capacity = integer(values, "capacity", 1);
    card.multiple = integer(values, "multiple", 1);
    // On CPUs with AMX OpenVINO crashes on INT8 windows of 32 and 64 px (its issue 37577).
    if (!is_plan && values.at("precision") == "int8") card.min_side = 128;
    card.tile = integer(values, "tile", card.multiple);
    card.halo = integer(values, "halo", card.multiple);
    if (card.tile % card.multiple || card.halo % card.multiple)
        invalid_card("tile and halo to be multiples of " + std::to_string(card.multiple) + " px");
    values.at("classes").get_to(card.classes);
    if (card.classes.empty()) invalid_card("at least one class");
    if (is_plan) {
        values.at("runtime").get_to(card.runtime);
        values.at("runtime_version").get_to(card.runtime_version);
        const json& largest = values.at("profile").at(2);  // minimum, optimum and maximum of batch, height, width
        card.whole_height = largest.at(1).get<int>();
        card.whole_width = largest.at(2).get<int>();
    }
    return card;
}

}  // namespace

Model read_model(const std::string& path) try {
    Model model;
    model.path = path;
    model.is_plan = ends_with(path, ".engine");
    if (!model.is_plan && !ends_with(path, ".onnx"))
        throw ModelError("expected a model file ending in .onnx or .engine");
    model.bytes = read_file(path);
    std::string text, digest;
    if (model.is_plan) {
        text = read_file(path + ".json");
        Sha256 whole;
        whole.add(model.bytes.data(), model.bytes.size());
        digest = whole.hex();
    } else {
        text = card_in_onnx(model.bytes, digest);
    }
    const json values = json::parse(text);
    if (values.at("model_sha256") != digest) throw ModelError(DAMAGED);
    model.card = parse_card(values, model.is_plan);
    return model;
} catch (const json::exception& error) {
    throw ModelError(path + ": invalid model card: " + error.what() + ": build the model again");
} catch (const ModelError& error) {
    throw ModelError(path + ": " + error.what());
}

}  // namespace kinet

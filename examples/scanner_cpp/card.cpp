#include "card.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <locale>
#include <map>
#include <sstream>

#include "error.hpp"
#include "sha256.hpp"

namespace kinet {
namespace {

const char* const DAMAGED = "the model is damaged, or no model: copy or build it again";

bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file || bytes.empty())
        throw ModelError("expected a file that can be read as " + path + ", found none, or an empty one");
    return bytes;
}

// --- protobuf, as far as the outermost level of an ONNX file: https://protobuf.dev/programming-guides/encoding -------

struct Field {
    uint64_t number;
    size_t start, value, end;
};

uint64_t varint(const std::string& bytes, size_t& at, size_t end) {
    uint64_t number = 0;
    for (int shift = 0; shift < 64 && at < end; shift += 7) {
        const auto byte = static_cast<uint8_t>(bytes[at++]);
        number |= static_cast<uint64_t>(byte & 0x7F) << shift;
        if (byte < 0x80) return number;
    }
    throw ModelError(DAMAGED);
}

std::vector<Field> fields(const std::string& bytes, size_t at, size_t end) {
    std::vector<Field> found;
    while (at < end) {
        Field field{0, at, 0, 0};
        const uint64_t tag = varint(bytes, at, end);
        uint64_t length = 0;
        field.number = tag >> 3;
        switch (tag & 7) {
            case 0: field.value = at; varint(bytes, at, end); break;
            case 1: length = 8; break;
            case 2: length = varint(bytes, at, end); break;
            case 5: length = 4; break;
            default: throw ModelError(DAMAGED);
        }
        if ((tag & 7) != 0) field.value = at;
        if (field.number == 0 || length > end - at) throw ModelError(DAMAGED);
        at += static_cast<size_t>(length);
        field.end = at;
        found.push_back(field);
    }
    return found;
}

// Return the JSON of the card in an ONNX file, after both checksums.
std::string card_in_onnx(const std::string& onnx, std::string& digest) {
    Sha256 whole;
    std::map<std::string, std::string> metadata;
    for (const Field& field : fields(onnx, 0, onnx.size())) {
        if (field.number != 14) {  // ModelProto.metadata_props, which the hash leaves out
            whole.add(onnx.data() + field.start, field.end - field.start);
            continue;
        }
        std::string key, value;
        for (const Field& part : fields(onnx, field.value, field.end))
            (part.number == 1 ? key : value) = onnx.substr(part.value, part.end - part.value);
        metadata[key] = value;
    }
    if (!metadata.count("kinet_trt.card"))
        throw ModelError("no model card: expected an ONNX file that kinet-trt wrote: kinet-trt build --fused");
    const std::string card = metadata["kinet_trt.card"];
    Sha256 own;
    own.add(card.data(), card.size());
    if (own.hex() != metadata["kinet_trt.card.sha256"]) throw ModelError(DAMAGED);
    digest = whole.hex();
    return card;
}

// --- JSON, as far as a card: an object of numbers, texts and lists of texts ------------------------------------------

[[noreturn]] void bad_card(const std::string& what) {
    throw ModelError("the model card: expected " + what + ": build the model again");
}

// Return the text that begins at a quotation mark, and go past it.
std::string text_at(const std::string& json, size_t& at) {
    std::string text;
    for (at++; at < json.size() && json[at] != '"'; at++) {
        if (json[at] == '\\' && ++at < json.size() && json[at] != '"' && json[at] != '\\' && json[at] != '/')
            text += '\\';  // a control character: none is in what is read here
        if (at < json.size()) text += json[at];
    }
    if (at++ >= json.size()) bad_card("JSON");
    return text;
}

// Return the values of the outermost object, as they stand.
std::map<std::string, std::string> members(const std::string& json) {
    std::map<std::string, std::string> found;
    std::string name;
    size_t value = 0;
    int depth = 0;
    for (size_t at = 0; at < json.size();) {
        const char c = json[at];
        if (c == '"') {
            const std::string text = text_at(json, at);
            if (depth == 1 && name.empty()) name = text;
            continue;
        }
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
        if (c == ':' && depth == 1) value = at + 1;
        if (((c == ',' && depth == 1) || depth == 0) && value) {
            found[name] = json.substr(value, at - value);
            name.clear();
            value = 0;
        }
        at++;
    }
    if (depth != 0 || found.empty()) bad_card("JSON");
    return found;
}

using Members = std::map<std::string, std::string>;

const std::string& member(const Members& all, const std::string& name) {
    const auto found = all.find(name);
    if (found == all.end()) bad_card("a value for " + name);
    return found->second;
}

// Return the numbers of a value, of which there must be so many.
std::vector<double> numbers(const Members& all, const std::string& name, size_t n, double least, double most) {
    std::string json = member(all, name);
    std::replace_if(json.begin(), json.end(), [](char c) { return c == '[' || c == ']' || c == ','; }, ' ');
    std::istringstream text(json);
    text.imbue(std::locale::classic());  // whatever the host's decimal point is
    std::vector<double> found;
    for (double value = NAN; text >> value && value >= least && value <= most;) found.push_back(value);
    if (found.size() != n || !text.eof()) bad_card("numbers that make sense for " + name);
    return found;
}

double number(const Members& all, const std::string& name, double least, double most) {
    return numbers(all, name, 1, least, most).front();
}

std::vector<std::string> texts(const Members& all, const std::string& name) {
    const std::string& json = member(all, name);
    std::vector<std::string> found;
    for (size_t at = 0; at < json.size();) {
        if (json[at] == '"')
            found.push_back(text_at(json, at));
        else
            at++;
    }
    if (found.empty()) bad_card("text for " + name);
    return found;
}

}  // namespace

Model read_model(const std::string& path) try {
    Model model;
    model.path = path;
    model.is_plan = ends_with(path, ".engine");
    if (!model.is_plan && !ends_with(path, ".onnx"))
        throw ModelError("expected a model file ending in .onnx or .engine");
    model.bytes = read_file(path);
    std::string json, digest;
    if (model.is_plan) {
        json = read_file(path + ".json");
        Sha256 whole;
        whole.add(model.bytes.data(), model.bytes.size());
        digest = whole.hex();
    } else {
        json = card_in_onnx(model.bytes, digest);
    }
    const Members all = members(json);
    if (texts(all, "model_sha256").front() != digest) throw ModelError(DAMAGED);
    if (number(all, "version", 1, 1e9) > 1)
        throw ModelError("its card is newer than this library: build the library from a newer kinet-trt");
    if (!all.count("capacity") || number(all, "capacity", 0, 1 << 16) < 1)
        throw ModelError("it gives maps, expected one that finds the nuclei itself: kinet-trt build --fused");
    Card& card = model.card;
    card.mpp = number(all, "mpp", 0.01, 100);
    card.threshold = static_cast<float>(number(all, "threshold", -3e38, 3e38));
    card.capacity = static_cast<int>(number(all, "capacity", 1, 1 << 16));
    card.multiple = static_cast<int>(number(all, "multiple", 1, 1 << 16));
    // On CPUs with AMX OpenVINO crashes on INT8 windows of 32 and 64 px (its issue 37577).
    if (!model.is_plan && texts(all, "precision").front() == "int8") card.least_side = 128;
    card.tile = static_cast<int>(number(all, "tile", card.multiple, 1 << 16));
    card.halo = static_cast<int>(number(all, "halo", card.multiple, 1 << 16));
    if (card.tile % card.multiple || card.halo % card.multiple) bad_card("a tile and a halo that are multiples of px");
    card.classes = texts(all, "classes");
    if (model.is_plan) {
        card.runtime = texts(all, "runtime").front();
        card.runtime_version = texts(all, "runtime_version").front();
        const std::vector<double> profile = numbers(all, "profile", 9, 1, 1 << 16);  // least, best, largest: n, h, w
        card.whole_height = static_cast<int>(profile[7]);
        card.whole_width = static_cast<int>(profile[8]);
    }
    return model;
} catch (const ModelError& error) {
    throw ModelError(path + ": " + error.what());
}

}  // namespace kinet

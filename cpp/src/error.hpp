// Errors. Messages say what was expected, what was found and what to do.
#pragma once

#include <stdexcept>

namespace kinet {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct ArgumentError : Error {
    using Error::Error;
};
struct ModelError : Error {
    using Error::Error;
};

}  // namespace kinet

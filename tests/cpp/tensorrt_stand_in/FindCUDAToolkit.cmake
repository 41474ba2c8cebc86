# Found before CMake's own: the stand-in is CUDA and TensorRT in one library.
add_library(CUDA::cudart INTERFACE IMPORTED)

"""The CPU emulation of CUDA detects errors that would occur on a device."""

import numpy as np
import pytest

from cuda_on_cpu import CpuModule
from kinet_trt.cuda.kernels import Launch

KERNELS = """
extern __shared__ int shared_memory[];

extern "C" __global__ void turn(const int* from, int* to) {
    shared_memory[threadIdx.x] = from[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    to[blockIdx.x * blockDim.x + threadIdx.x] = shared_memory[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void race(int* to) {
    shared_memory[threadIdx.x] = threadIdx.x;
    to[threadIdx.x] = shared_memory[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void leave(int unused) {
    if (threadIdx.x < static_cast<unsigned>(unused)) __syncthreads();
}

extern "C" __global__ void overrun(int places) {
    shared_memory[places + threadIdx.x] = 1;
}
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return CpuModule(KERNELS, tmp_path_factory.mktemp("shim"))


def launch(kernel, threads, shared, *arguments, blocks=1):
    return Launch(kernel, (blocks, 1, 1), (threads, 1, 1), arguments, shared)


def address(array):
    return np.uint64(array.ctypes.data)


def test_threads_wait_for_each_other_at_a_barrier(module):
    given, got = np.arange(96, dtype=np.int32), np.zeros(96, np.int32)
    for seed in range(5):
        module.issue([launch("turn", 32, 128, address(given), address(got), blocks=3)], seed)
        assert (got == given.reshape(3, 32)[:, ::-1].ravel()).all()


def test_race_depends_on_the_seed(module):
    results = set()
    for seed in range(5):
        got = np.zeros(32, np.int32)
        module.issue([launch("race", 32, 128, address(got))], seed)
        results.add(got.tobytes())
    assert len(results) == 5


def test_skipped_barrier_is_reported(module):
    module.issue([launch("leave", 32, 0, np.int32(32))])
    with pytest.raises(AssertionError, match="left a barrier waiting"):
        module.issue([launch("leave", 32, 0, np.int32(31))])


def test_writes_beyond_shared_memory_are_reported(module):
    module.issue([launch("overrun", 32, 128, np.int32(0))])
    with pytest.raises(AssertionError, match="beyond shared memory"):
        module.issue([launch("overrun", 32, 128, np.int32(1))])


def test_shared_memory_beyond_every_gpu_is_reported(module):
    with pytest.raises(AssertionError, match="more shared memory"):
        module.issue([launch("overrun", 32, (48 << 10) + 4, np.int32(0))])

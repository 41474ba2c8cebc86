"""TensorRT as the GPU engine calls it, on the host memory of cupy_on_cpu.

What TensorRT does not keep alive is not kept alive here, and checked when it is used. A call that TensorRT does not
have, or with other arguments, fails here as it would there.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from cupy_on_cpu import bytes_at, current_device, require, stream_at, token
from kinet_trt.peaks.reference import find_peaks


class Native:
    """What TensorRT has behind the object of a binding, which alone keeps it."""

    def __init__(self):
        self.is_released = False

    def release(self):
        self.is_released = True


class RuntimeCache:
    """Kernels that TensorRT for RTX compiled."""

    def __init__(self):
        self.native = Native()
        self.token = token(self.native.release)


class RuntimeConfig:
    """Has the attributes of IRuntimeConfig and no others; it does not keep the cache, as the binding does not."""

    __slots__ = ("__weakref__", "cache", "dynamic_shapes_kernel_specialization_strategy", "strategy")

    def __init__(self):
        self.cache = self.strategy = None

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return RuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = cache.native
        return True


MAPS = {"frame": ("input", np.uint8), "maps": ("output", np.float16)}
NUCLEI = {
    "frame": ("input", np.uint8),
    "threshold": ("input", np.float32),
    "count": ("output", np.int32),
    "detections": ("output", np.float32),
}


class Plan:
    """An engine of TensorRT: maps are a function of the pixels, in FP16; with a capacity, it is fused."""

    device_memory_size_v2 = 1000

    def __init__(self, network, capacity):
        self.network, self.capacity, self.context_count = network, capacity, 0
        self.tensors = NUCLEI if capacity else MAPS
        self.num_io_tensors = len(self.tensors)

    def create_runtime_config(self):
        return RuntimeConfig()

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return self.tensors[name][0]

    def get_tensor_dtype(self, name):
        return self.tensors[name][1]

    def create_execution_context(self, options):
        strategy = options.strategy if isinstance(options, RuntimeConfig) else options
        assert strategy == "user managed"
        self.context_count += 1
        return Context(self, options)


class Context:
    """An execution context of it. Like the binding, it keeps its engine and its options alive, and nothing else."""

    def __init__(self, plan, options):
        self.plan, self.options, self.device, self.native = plan, options, current_device(), Native()
        self.native.addresses, self.native.memory, self.native.shape = {}, None, None
        self.native.cache = options.cache if isinstance(options, RuntimeConfig) else Native()
        self.token = token(Context.release, self.native)

    @staticmethod
    def release(native):
        require(not native.cache.is_released, "a runtime cache that was released before a context")
        native.release()

    def set_device_memory(self, memory, size):
        self.native.memory = memory, size

    def set_input_shape(self, name, shape):
        self.native.shape = tuple(shape)
        return name == "frame"

    def get_tensor_shape(self, name):
        n, h, w, _ = self.native.shape
        capacity = self.plan.capacity
        return {"threshold": (1,), "count": (n,), "detections": (n, capacity, 4), "maps": (n, 3, h, w)}[name]

    def set_tensor_address(self, name, memory):
        self.native.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        stream, native, plan = stream_at(stream_handle), self.native, self.plan
        state = native.shape, dict(native.addresses), native.memory
        shapes = {name: native.shape if name == "frame" else self.get_tensor_shape(name) for name in plan.tensors}

        def tensor(name):
            dtype = np.dtype(plan.tensors[name][1])
            size = int(np.prod(shapes[name])) * dtype.itemsize
            return bytes_at(native.addresses[name], size).view(dtype).reshape(shapes[name])

        def work():
            require(not native.is_released, "an execution context that was released")
            require(not native.cache.is_released, "a runtime cache that was released")
            require(state == (native.shape, native.addresses, native.memory), "a context that changed after capture")
            bytes_at(*native.memory)
            maps = plan.network(tensor("frame")).astype(np.float16)
            if not plan.capacity:
                tensor("maps")[...] = maps
                return
            for i, image in enumerate(maps):
                found = find_peaks(image, float(tensor("threshold")[0]))
                rows = np.stack([found.x, found.y, found.score, found.cls], axis=1)[: plan.capacity]
                tensor("count")[i] = len(found)
                tensor("detections")[i, : len(rows)] = rows

        require(stream.device_id == self.device == current_device(), "a context of another device")
        stream.queue.do(work)
        return True


def library(network, *, capacity=0, is_rtx=False):
    """Return what stands in for TensorRT, or for TensorRT for RTX; a capacity above 0 makes its plans fused."""
    trt = SimpleNamespace(
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: Plan(network, capacity)),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
        TensorIOMode=SimpleNamespace(OUTPUT="output"),
        nptype=lambda kind: kind,
    )
    return SimpleNamespace(module=trt, name="TensorRT", version="11.0", logger=None, messages=[], is_rtx=is_rtx)

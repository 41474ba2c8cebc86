"""CuPy and TensorRT as the GPU engine calls them, on host memory: the sequence of calls is tested, not the device.

Work on a stream is done at once, or recorded while the stream is captured. Kernels are the package's own, compiled for
the CPU. A call that CuPy or TensorRT does not have, or with other arguments, fails here as it would there.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np

from cuda_on_cpu import CpuModule

EVERY_STREAM: dict[int, Stream] = {}
STREAMS: list[Stream] = []
"""Those that are current; the last one counts."""


DEVICES = 2
CURRENT = threading.local()


def current_device():
    """Return the index of the device that is current in this thread."""
    return getattr(CURRENT, "device", 0)


class Device:
    """Switches the device that is current in this thread, until the end of the block."""

    def __init__(self, device=None):
        self.id = current_device() if device is None else device
        assert self.id < DEVICES, "cudaErrorInvalidDevice"
        self.before = []

    def __enter__(self):
        self.before.append(current_device())
        self.use()
        return self

    def __exit__(self, *_):
        CURRENT.device = self.before.pop()

    def use(self):
        CURRENT.device = self.id

    def synchronize(self):
        pass


class Stream:
    """At once, or recorded."""

    def __init__(self, null=False, non_blocking=False):
        self.ptr = 0 if null else 1000 + len(EVERY_STREAM)
        self.device_id = -1 if null else current_device()
        EVERY_STREAM[self.ptr], self.recorded = self, None

    def __enter__(self):
        assert self.device_id in (-1, current_device()), "the stream is of another device"
        STREAMS.append(self)
        return self

    def __exit__(self, *_):
        STREAMS.pop()

    def begin_capture(self, mode=None):
        assert self.recorded is None
        self.recorded = []

    def end_capture(self):
        graph, self.recorded = Graph(self.recorded), None
        return graph

    def synchronize(self):
        assert self.recorded is None, "cudaErrorStreamCaptureUnsupported"

    def wait_event(self, event):
        assert isinstance(event, Event)

    def record(self):
        return Event()

    def do(self, work):
        work() if self.recorded is None else self.recorded.append(work)


class Graph:
    """What was recorded."""

    def __init__(self, work):
        self.work = work

    def launch(self, stream=None):
        assert stream is None or stream.recorded is None
        for one in self.work:
            one()


class Event:
    """Of no effect: all is done when it is recorded."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.ptr = 7

    def record(self, stream=None):
        assert stream is None or stream.recorded is None

    def synchronize(self):
        pass


class Array:
    """A CuPy array: no NumPy array, and of those it has only what the engine asks for."""

    def __init__(self, host):
        self.host = host
        self.shape, self.dtype = host.shape, host.dtype
        self.data = SimpleNamespace(ptr=host.ctypes.data)

    @property
    def __cuda_array_interface__(self):
        stream = STREAMS[-1].ptr if STREAMS else 0
        return {**self.host.__array_interface__, "version": 3, "stream": stream or 1}

    def __dlpack_device__(self):
        return 2, 0

    def __getitem__(self, index):
        return Array(self.host[index])

    def fill(self, value):
        self.host.fill(value)

    def set(self, arr, stream=None):
        self.host[...] = arr

    def get(self, stream=None, order="C", out=None, blocking=True):
        return self.host.copy()


class Memory:
    """Memory on the device."""

    def __init__(self, size):
        self._held = np.full(size + 16, 0xA5, np.uint8)
        self.ptr = self._held.ctypes.data + -self._held.ctypes.data % 16


class Pinned(bytearray):
    """Memory on the host."""

    @property
    def ptr(self):
        return np.frombuffer(self, np.uint8).ctypes.data


def array(shape, kind):
    return Array(np.full(shape, 0x5A, kind))


def module(folder):
    """Return what stands in for CuPy; kernels are compiled into the folder, once a file."""
    built = {}

    def raw_module(code, options):
        if code not in built:
            place = folder / str(len(built))
            place.mkdir()
            built[code] = CpuModule(code, place)

        def function(name):
            def launch(grid, block, args, *, shared_mem=0):
                one = SimpleNamespace(kernel=name, grid=grid, block=block, arguments=args, shared=shared_mem)
                STREAMS[-1].do(lambda: built[code].issue([one]))

            launch.attributes = {}
            return launch

        return SimpleNamespace(get_function=function)

    def memcpy(dst, src, size, kind, stream):
        EVERY_STREAM[stream].do(lambda: ctypes.memmove(dst, src, size))

    def memset(ptr, value, size, stream):
        EVERY_STREAM[stream].do(lambda: ctypes.memset(ptr, value, size))

    null = Stream(null=True)
    runtime = SimpleNamespace(
        CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}),
        memcpyAsync=memcpy,
        memsetAsync=memset,
        memcpyHostToDevice=1,
        memcpyDeviceToHost=2,
        free=lambda _: None,
        pointerGetAttributes=lambda _: SimpleNamespace(device=0),
        memGetInfo=lambda: (1 << 30, 2 << 30),
        eventRecord=lambda event, stream: None,
        streamWaitEvent=lambda stream, event, flags=0: None,
    )
    cuda = ModuleType("cupy.cuda")
    cuda.__dict__.update(
        Stream=Stream,
        Event=Event,
        Device=Device,
        get_elapsed_time=lambda start, end: 0.05,  # ms
        alloc=Memory,
        alloc_pinned_memory=Pinned,
        runtime=runtime,
        driver=SimpleNamespace(CUDADriverError=type("CUDADriverError", (RuntimeError,), {})),
        memory=SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {})),
        compiler=SimpleNamespace(CompileException=type("CompileException", (Exception,), {})),
        get_current_stream=lambda: STREAMS[-1] if STREAMS else null,
    )
    cupy = ModuleType("cupy")
    cupy.__dict__.update(
        cuda=cuda,
        ndarray=Array,
        empty=array,
        zeros=lambda shape, kind: Array(np.zeros(shape, kind)),
        asarray=lambda given: Array(np.array(given)),
        RawModule=raw_module,
    )
    return cupy


@contextmanager
def installed(folder):
    """Let ``import cupy`` find what stands in for it."""
    cupy = module(folder)
    before = {name: sys.modules.get(name) for name in ("cupy", "cupy.cuda")}
    sys.modules.update({"cupy": cupy, "cupy.cuda": cupy.cuda})
    try:
        yield cupy
    finally:
        for name, one in before.items():
            sys.modules.pop(name) if one is None else sys.modules.__setitem__(name, one)


class RuntimeCache:
    """Kernels that TensorRT for RTX compiled; a binding, which may be referenced weakly."""


class RuntimeConfig:
    """Has the attributes of IRuntimeConfig and no others; stores the address of a cache, as the binding does."""

    __slots__ = ("__weakref__", "cache", "dynamic_shapes_kernel_specialization_strategy", "strategy")

    def __init__(self):
        self.cache = self.strategy = None

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return RuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = weakref.ref(cache)
        return True


class Plan:
    """An engine of TensorRT: maps are a function of the pixels, in FP16."""

    num_io_tensors, device_memory_size_v2 = 2, 1000

    def __init__(self, network):
        self.network, self.contexts_made = network, 0

    def create_runtime_config(self):
        return RuntimeConfig()

    def get_tensor_name(self, index):
        return ("frame", "maps")[index]

    def get_tensor_mode(self, name):
        return {"frame": "input", "maps": "output"}[name]

    def get_tensor_dtype(self, name):
        return {"frame": np.uint8, "maps": np.float16}[name]

    def create_execution_context(self, options):
        strategy = options.strategy if isinstance(options, RuntimeConfig) else options
        assert strategy == "user managed"
        self.contexts_made += 1
        return Context(self, options)


class Context:
    """An execution context of it. Like the binding, it keeps its engine and its options alive, and nothing else."""

    def __init__(self, plan, options):
        self.plan, self.options, self.network, self.addresses, self.memory = plan, options, plan.network, {}, None
        self.device = current_device()

    def set_device_memory(self, memory, size):
        self.memory = memory, size

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)
        return name == "frame"

    def get_tensor_shape(self, name):
        n, h, w, _ = self.shape
        return n, 3, h, w

    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        def work():
            frames, maps = (
                np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.addresses[name]))
                for name, size in (("frame", np.prod(self.shape)), ("maps", 2 * np.prod(self.get_tensor_shape("maps"))))
            )
            result = self.network(frames.reshape(self.shape)).astype(np.float16)
            maps[:] = np.frombuffer(result.tobytes(), np.uint8)

        assert self.memory
        assert EVERY_STREAM[stream_handle].device_id == self.device == current_device()
        if isinstance(self.options, RuntimeConfig):
            assert self.options.cache() is not None, "use after free: the runtime cache"
        EVERY_STREAM[stream_handle].do(work)
        return True


def library(network, is_rtx=False):
    """Return what stands in for TensorRT, or for TensorRT for RTX."""
    trt = SimpleNamespace(
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: Plan(network)),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
        TensorIOMode=SimpleNamespace(OUTPUT="output"),
        nptype=lambda kind: kind,
    )
    return SimpleNamespace(module=trt, name="TensorRT", version="11.0", logger=None, messages=[], is_rtx=is_rtx)

"""CuPy as the GPU engine calls it, on host memory: the sequence of calls is tested, not the device.

Work on a stream waits in a queue until the host waits for it, and then runs in the worst order that the streams, events
and graphs allow (:data:`ORDERS`): a missing wait gives wrong results here. What CUDA knows only by its address or its
handle is not kept alive, and checked when it is used. Kernels are the package's own, compiled for the CPU. A call that
CuPy does not have, or with other arguments, fails here as it would there.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
import weakref
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np

from cuda_on_cpu import CpuModule

ORDERS = ("late", "early")
"""late: only what the host waits for runs, so what it should depend on is missing. early: before each step of that, all
other work that may run does, so what should wait for it overwrites its input."""
DEVICES = 2
FRESH, FREED = 0xA5, 0xDB  # content of memory
LOCK = threading.RLock()
HANDLES = itertools.count(1000)
THREAD = threading.local()  # device, streams: those that are current; the last stream counts


class Violation(BaseException):
    """What gives wrong results, or a crash, on a GPU; no error handling catches it."""


def require(condition, problem):
    """Raise a Violation unless the condition holds."""
    if not condition:
        raise Violation(problem)


def token(callback, *arguments):
    """Return an object that calls a function when its owner is released.

    In a cycle, that is after every ``__del__``, as for an object in C++: the garbage collector does not track arrays.
    """
    one = np.empty(0)
    weakref.finalize(one, callback, *arguments).atexit = False
    return one


# --- work -------------------------------------------------------------------------------------------------------------


class Operation:
    """Queued work, and the operations that it runs after."""

    def __init__(self, work, after):
        self.work, self.after, self.done = work, [one for one in after if one and not one.done], False

    @property
    def is_ready(self):
        return all(one.done for one in self.after)

    def run(self):
        del STATE.pending[self]
        self.done, self.after = True, []
        self.work()


def finish(target):
    """Run an operation, and what it depends on, in the current order."""
    with LOCK:
        needed, stack = set(), [target]
        while stack:
            one = stack.pop()
            if one not in needed and not one.done:
                needed.add(one)
                stack += one.after
        while not target.done:
            others = [one for one in STATE.pending if one not in needed and one.is_ready]
            if STATE.order == "late" or not others:
                others = [one for one in reversed(STATE.pending) if one in needed and one.is_ready]
            others[0].run()


class Queue:
    """The operations of a stream; one that blocks is ordered with the legacy default stream."""

    def __init__(self, blocks):
        self.blocks, self.last, self.recorded, self.is_destroyed = blocks, None, None, False
        STATE.queues.add(self)

    def add(self, work=lambda: None, *after):
        """Queue work, also after these operations."""
        require(not self.is_destroyed, "a stream that was destroyed")
        require(self.recorded is None, "a synchronization or an event on a stream that is being captured")
        return self.append(work, *after)

    def append(self, work, *after):
        with LOCK:
            if self is STATE.null.queue:
                after = (*after, *(queue.last for queue in STATE.queues if queue.blocks))
            elif self.blocks:
                after = (*after, STATE.null.queue.last)
            self.last = Operation(work, (self.last, *after))
            STATE.pending[self.last] = None
            return self.last

    def do(self, work):
        """Queue or, while the stream is captured, record work."""
        self.add(work) if self.recorded is None else self.recorded.append(work)


class Stream:
    """A stream of the current device; ``null``: the legacy default stream, of any device."""

    def __init__(self, null=False, non_blocking=False):
        self.ptr = 0 if null else next(HANDLES)
        self.device_id = -1 if null else current_device()
        self.queue = Queue(not null and not non_blocking)
        STATE.streams[self.ptr or 1] = self

    def __del__(self):
        self.queue.is_destroyed = True

    def __enter__(self):
        self.check_device()
        streams().append(self)
        return self

    def __exit__(self, *_):
        streams().pop()

    def check_device(self):
        require(self.device_id in (-1, current_device()), "a stream of another device")

    def begin_capture(self, mode=None):
        require(self.queue.recorded is None and self.ptr > 1, "cudaErrorStreamCaptureUnsupported")
        self.queue.recorded = []

    def end_capture(self):
        graph, self.queue.recorded = Graph(self.queue.recorded), None
        return graph

    def synchronize(self):
        finish(self.queue.add())

    def wait_event(self, event):
        require(isinstance(event, Event), "an event")
        if event.operation is not None:
            self.queue.add(lambda: None, event.operation)

    def record(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event


def streams():
    """Return the current streams of this thread."""
    if not hasattr(THREAD, "streams"):
        THREAD.streams = []
    return THREAD.streams


def current_stream():
    return streams()[-1] if streams() else STATE.null


def stream_at(handle):
    """Return the stream with a handle; 0 and 1 are the legacy default stream."""
    stream = STATE.null if handle in (0, 1) else STATE.streams.get(handle)
    require(stream is not None, "a stream that was destroyed")
    return stream


class Graph:
    """Recorded work."""

    def __init__(self, work):
        self.work = work

    def launch(self, stream=None):
        stream = stream or current_stream()
        stream.check_device()
        work = self.work
        stream.queue.add(lambda: [one() for one in work])


class Event:
    """The last operation of a stream when it was recorded."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.ptr, self.operation = next(HANDLES), None
        STATE.events[self.ptr] = self

    def record(self, stream=None):
        self.operation = (stream or current_stream()).queue.add()

    def synchronize(self):
        if self.operation is not None:
            finish(self.operation)


def elapsed_time(start, end):
    require(start.operation.done and end.operation.done, "the time of an event that is not complete")
    return 0.05  # ms


# --- devices and memory -----------------------------------------------------------------------------------------------


def current_device():
    """Return the index of the device that is current in this thread."""
    return getattr(THREAD, "device", 0)


class Device:
    """Switches the device that is current in this thread, until the end of the block."""

    def __init__(self, device=None):
        self.id = current_device() if device is None else device
        require(0 <= self.id < DEVICES, "cudaErrorInvalidDevice")
        self.before = []

    def __enter__(self):
        self.before.append(current_device())
        self.use()
        return self

    def __exit__(self, *_):
        THREAD.device = self.before.pop()

    def use(self):
        THREAD.device = self.id

    def synchronize(self):
        for queue in list(STATE.queues):
            finish(queue.append(lambda: None))


class Block:
    """The bytes of an allocation; ``device`` is None in pinned memory. It stays here when its owner has released it."""

    def __init__(self, size, device):
        raw = np.full(size + 256, FRESH, np.uint8)
        start = -raw.ctypes.data % 256
        self.bytes, self.device, self.is_freed = raw[start : start + size], device, False
        self.address = self.bytes.ctypes.data
        STATE.blocks.append(self)

    def free(self):
        self.bytes[:] = FREED
        self.is_freed = True


def block_at(address, size=1):
    """Return the allocation that contains these bytes; None if there is none."""
    for block in STATE.blocks:
        if block.address <= address and address + size <= block.address + len(block.bytes):
            return block
    return None


def bytes_at(address, size, *, pinned=False):
    """Return bytes that work uses now."""
    block = block_at(address, size)
    require(block is not None, "an address outside CUDA's memory")
    require(not block.is_freed, "memory that was freed")
    require((block.device is None) == pinned, "memory of the host as that of a device, or the reverse")
    start = address - block.address
    return block.bytes[start : start + size]


class Memory:
    """Memory of the current device; released after the work of the stream that is current now, as by CuPy's pool."""

    def __init__(self, size):
        block = Block(size, current_device())
        self.block, self.ptr = block, block.address
        self.token = token(current_stream().queue.append, block.free)


def pinned_memory(size):
    """Return pinned memory; released at once, as by CuPy's pool."""
    block = Block(size, None)
    memory = type("Pinned", ((ctypes.c_ubyte * size),), {"ptr": property(ctypes.addressof)}).from_buffer(block.bytes)
    memory.token = token(block.free)
    return memory


class Array:
    """A CuPy array with a copy of a NumPy array: of NumPy's methods it has only what the engine asks for."""

    def __init__(self, host, memory=None):
        if memory is None:
            memory = Memory(host.nbytes)
            copied = memory.block.bytes.view(host.dtype).reshape(host.shape)
            copied[...] = host
            host = copied
        self.host, self.memory = host, memory
        self.shape, self.dtype, self.nbytes = host.shape, host.dtype, host.nbytes
        self.data = SimpleNamespace(ptr=host.ctypes.data)

    @property
    def __cuda_array_interface__(self):
        interface = self.host.__array_interface__
        return {**interface, "strides": self.host.strides, "version": 3, "stream": current_stream().ptr or 1}

    def __dlpack_device__(self):
        return 2, self.memory.block.device

    def __getitem__(self, index):
        return Array(self.host[index], self.memory)

    def fill(self, value):
        self._write(value, current_stream())

    def set(self, arr, stream=None):
        self._write(np.array(arr), stream or current_stream())

    def get(self, stream=None, order="C", out=None, blocking=True):
        (stream or current_stream()).synchronize()
        require(not self.memory.block.is_freed, "memory that was freed")
        return self.host.copy()

    def _write(self, value, stream):
        host, block = self.host, self.memory.block

        def work():
            require(not block.is_freed, "memory that was freed")
            host[...] = value

        stream.queue.do(work)


def empty(shape, dtype):
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    memory = Memory(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return Array(memory.block.bytes.view(dtype).reshape(shape), memory)


def zeros(shape, dtype):
    array = empty(shape, dtype)
    array.fill(0)
    return array


def asarray(host):
    array = empty(host.shape, host.dtype)
    array.set(host)
    return array


# --- CuPy -------------------------------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    """An error code of CUDA."""


def memcpy(dst, src, size, kind, stream):
    to_host = kind == 2

    def work():
        bytes_at(dst, size, pinned=to_host)[:] = bytes_at(src, size, pinned=not to_host)

    stream_at(stream).queue.do(work)


def memset(ptr, value, size, stream):
    stream_at(stream).queue.do(lambda: bytes_at(ptr, size).fill(value))


def pointer_attributes(address):
    block = block_at(address)
    if block is None or block.device is None:
        raise CUDARuntimeError("cudaErrorInvalidValue")
    return SimpleNamespace(device=block.device)


def wait_event(stream, event, flags=0):
    require(event in STATE.events, "an event that was destroyed")
    stream_at(stream).wait_event(STATE.events[event])


def record_event(event, stream):
    require(event in STATE.events, "an event that was destroyed")
    STATE.events[event].record(stream_at(stream))


def module(folder):
    """Return what stands in for CuPy; kernels are compiled into the folder, once a file."""
    built = {}

    def raw_module(code, options):
        if code not in built:
            library = folder / str(len(built))
            library.mkdir()
            built[code] = CpuModule(code, library)

        def function(name):
            def launch(grid, block, args, *, shared_mem=0):
                one = SimpleNamespace(kernel=name, grid=grid, block=block, arguments=args, shared=shared_mem)

                def work():
                    for argument in args:
                        if isinstance(argument, np.uint64):
                            bytes_at(int(argument), 1)
                    built[code].issue([one])

                current_stream().check_device()
                current_stream().queue.do(work)

            launch.attributes = {}
            return launch

        return SimpleNamespace(get_function=function)

    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        memcpyAsync=memcpy,
        memsetAsync=memset,
        memcpyHostToDevice=1,
        memcpyDeviceToHost=2,
        free=lambda _: None,
        pointerGetAttributes=pointer_attributes,
        memGetInfo=lambda: (1 + current_device() << 30, 4 << 30),
        eventRecord=record_event,
        streamWaitEvent=wait_event,
    )
    cuda = ModuleType("cupy.cuda")
    cuda.__dict__.update(
        Stream=Stream,
        Event=Event,
        Device=Device,
        get_elapsed_time=elapsed_time,
        alloc=Memory,
        alloc_pinned_memory=pinned_memory,
        runtime=runtime,
        driver=SimpleNamespace(CUDADriverError=type("CUDADriverError", (RuntimeError,), {})),
        memory=SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {})),
        compiler=SimpleNamespace(CompileException=type("CompileException", (Exception,), {})),
        get_current_stream=current_stream,
    )
    cupy = ModuleType("cupy")
    cupy.__dict__.update(
        cuda=cuda,
        ndarray=Array,
        empty=empty,
        zeros=zeros,
        asarray=asarray,
        from_dlpack=lambda frame: frame.__dlpack__(stream=current_stream().ptr or 1),
        RawModule=raw_module,
    )
    return cupy


class State:
    """What CUDA knows; streams and events by their handles."""

    def reset(self):
        """Forget all of it."""
        self.order, self.pending, self.blocks = "late", {}, []
        self.queues, self.streams, self.events = (
            weakref.WeakSet(),
            weakref.WeakValueDictionary(),
            weakref.WeakValueDictionary(),
        )
        Stream.null = self.null = Stream(null=True)


STATE = State()
STATE.reset()


@contextmanager
def installed(folder):
    """Let ``import cupy`` find what stands in for it."""
    STATE.reset()
    cupy = module(folder)
    before = {name: sys.modules.get(name) for name in ("cupy", "cupy.cuda")}
    sys.modules.update({"cupy": cupy, "cupy.cuda": cupy.cuda})
    try:
        yield cupy
    finally:
        for name, one in before.items():
            sys.modules.pop(name) if one is None else sys.modules.__setitem__(name, one)

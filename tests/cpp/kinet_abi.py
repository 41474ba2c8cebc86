"""The C ABI of cpp/ through ctypes, as a host in another language uses it."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_uint32, c_void_p
from pathlib import Path

import numpy as np

RGB, BGR = 0, 1
BAD_ARGUMENT, BAD_MODEL, FAILED = -1, -2, -3


class Options(ctypes.Structure):
    _fields_ = [("size", c_uint32), ("threads", c_int32), ("device", c_char_p), ("precision", c_char_p)]


class About(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("classes", c_int32),
        ("mpp", c_double),
        ("threshold", c_float),
        ("capacity", c_int32),
        ("multiple", c_int32),
        ("tile", c_int32),
        ("halo", c_int32),
    ]


class Nucleus(ctypes.Structure):
    _fields_ = [("x", c_float), ("y", c_float), ("score", c_float), ("cls", c_int32)]


class KinetError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Library:
    def __init__(self, path: Path):
        self.c = ctypes.CDLL(str(path))
        self.c.kinet_version.restype = c_char_p
        self.c.kinet_error.restype = c_char_p
        self.c.kinet_class.argtypes, self.c.kinet_class.restype = (c_void_p, c_int32), c_char_p
        self.c.kinet_open.argtypes = (c_char_p, POINTER(Options), POINTER(c_void_p))
        self.c.kinet_info.argtypes = (c_void_p, POINTER(About))
        self.c.kinet_close.argtypes, self.c.kinet_close.restype = (c_void_p,), None
        frame = (c_void_p, c_void_p, c_int32, c_int32, c_int32, c_int64)
        found = (c_float, POINTER(Nucleus), c_int32, POINTER(c_int32))
        self.c.kinet_count.restype = self.c.kinet_count_at.restype = c_int64
        self.c.kinet_count.argtypes = (*frame, *found)
        self.c.kinet_count_at.argtypes = (*frame, c_double, *found)

    def check(self, code):
        if code < 0:
            raise KinetError(code, self.c.kinet_error().decode())
        return code


class Model:
    def __init__(self, library: Library, path: Path, precision=None, threads=0):
        self.library, self.handle = library, c_void_p()
        options = Options(ctypes.sizeof(Options), threads, None, precision and precision.encode())
        library.check(library.c.kinet_open(str(path).encode(), byref(options), byref(self.handle)))

    def info(self):
        about = About(ctypes.sizeof(About))
        self.library.check(self.library.c.kinet_info(self.handle, byref(about)))
        names = [self.library.c.kinet_class(self.handle, i).decode() for i in range(about.classes)]
        return about, names

    def count(self, pixels, order=RGB, threshold=float("nan"), room=8192, mpp=None):
        """Return the number of nuclei and (x, y, class, score) of those written."""
        height, width = pixels.shape[:2]
        assert pixels.strides[1:] == (3, 1)
        assert pixels.dtype == np.uint8
        nuclei, written = (Nucleus * room)(), c_int32()
        c, at = self.library.c, pixels.__array_interface__["data"][0]
        frame = (self.handle, at, order, width, height, pixels.strides[0])
        rest = (threshold, nuclei, room, byref(written))
        n = c.kinet_count(*frame, *rest) if mpp is None else c.kinet_count_at(*frame, mpp, *rest)
        self.library.check(n)
        return n, [(nucleus.x, nucleus.y, nucleus.cls, nucleus.score) for nucleus in nuclei[: written.value]]

    def close(self):
        self.library.c.kinet_close(self.handle)
        self.handle = c_void_p()

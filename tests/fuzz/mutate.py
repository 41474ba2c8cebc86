"""Damage: what a bad cable, a full disk, a buggy exporter or an attacker makes of a file."""

from __future__ import annotations

import random

HUGE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
TEXTS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "9" * 400, "0x10", "null", "true", '""', "[]", "{}"),
    *("\x00", "\ufeff", "\u202e", "𝔎𝔦𝟞𝟟", "ﷺ", "é", "e\u0301", "\ud7ff", "‮‮‮", "核" * 300, "/" * 300, "../" * 50),
    *(",", "\n", "\r", '"', "'", ";", "\t", "\\", "%s%n", "$(true)", "[" * 2_000, '{"a":' * 500),
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to four kinds of damage."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        out = rng.choice(_WAYS)(out, rng)
    return bytes(out)


def _flip_bits(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if data:
            data[_somewhere(data, rng)] ^= 1 << rng.randrange(8)
    return data


def _truncate(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _swap(data: bytearray, rng: random.Random) -> bytearray:
    """Exchange two blocks, as a bad copy does."""
    size = rng.choice((1, 4, 16, 512))
    if len(data) < 2 * size:
        return data
    a, b = sorted(rng.sample(range(len(data) // size), 2)) if len(data) // size > 1 else (0, 0)
    first, second = slice(a * size, (a + 1) * size), slice(b * size, (b + 1) * size)
    data[first], data[second] = data[second], data[first]
    return data


def _zero(data: bytearray, rng: random.Random) -> bytearray:
    start = _somewhere(data, rng)
    length = min(rng.choice((1, 4, 64, 4096)), len(data) - start)
    data[start : start + length] = bytes(length)
    return data


def _huge_number(data: bytearray, rng: random.Random) -> bytearray:
    """Write a very large or very small integer over a field: dimensions, lengths, offsets."""
    width = rng.choice((1, 2, 4, 8))
    value = (rng.choice(HUGE) & (256**width - 1)).to_bytes(width, rng.choice(("little", "big")))
    start = _somewhere(data, rng)
    data[start : start + width] = value
    return data


def _insert_text(data: bytearray, rng: random.Random) -> bytearray:
    start = _somewhere(data, rng)
    data[start:start] = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    return data


def _repeat(data: bytearray, rng: random.Random) -> bytearray:
    start = _somewhere(data, rng)
    part = data[start : start + rng.choice((1, 16, 256))]
    data[start:start] = part * rng.choice((1, 2, 100))
    return data


def _delete(data: bytearray, rng: random.Random) -> bytearray:
    start = _somewhere(data, rng)
    del data[start : start + rng.choice((1, 2, 16, 256))]
    return data


_WAYS = (_flip_bits, _truncate, _swap, _zero, _huge_number, _insert_text, _repeat, _delete)


def _somewhere(data: bytearray, rng: random.Random) -> int:
    """Return a place; half of the time in the header, where the meaning is."""
    return rng.randrange(min(len(data), 128) or 1) if rng.random() < 0.5 else rng.randrange(len(data) or 1)

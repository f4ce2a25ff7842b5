"""TFRecord files: records one behind another, each framed by its length and two checksums.

A record is a uint64 length, the masked CRC-32C of these 8 bytes, the data, and the masked CRC-32C of the
data, all little-endian (TensorFlow, `tensorflow/core/lib/io/record_writer.h`).
"""

from __future__ import annotations

import functools
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt32

from pizero.recordings.source import RecordingError

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_LANE = 256
HEADER, FOOTER = 12, 4


@functools.cache
def _one_byte() -> UInt32[np.ndarray, "256"]:
    """Return what the register's lowest byte becomes after one byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


def crc32c(data: bytes) -> int:
    """Return the Castagnoli CRC of `data` (RFC 3720, §12.1), as `google_crc32c.value` does.

    The register is linear in what it has seen: rows of 256 bytes go through it side by side, each from zero
    and four bytes at a time, and neighbours are joined pair by pair. Zeros in front change nothing, and a
    register that begins with ones is one that begins with zeros and sees the first four bytes inverted.
    """
    if len(data) < _LANE:
        register, table = 0xFFFFFFFF, _one_byte()
        for byte in data:
            register = int(table[(register ^ byte) & 0xFF]) ^ (register >> 8)
        return register ^ 0xFFFFFFFF
    lanes = -(-len(data) // _LANE)
    rows = np.zeros(lanes * _LANE, dtype=np.uint8)
    begin = len(rows) - len(data)
    rows[begin:] = np.frombuffer(data, dtype=np.uint8)
    rows[begin : begin + 4] ^= 0xFF
    low, high = _four_bytes()
    registers = np.zeros(lanes, dtype=np.uint32)
    for words in np.ascontiguousarray(rows.view("<u4").reshape(lanes, _LANE // 4).T):
        registers ^= words
        registers = low[registers & 0xFFFF] ^ high[registers >> 16]
    past = _zeros(_LANE)
    while len(registers) > 1:
        if len(registers) % 2:
            registers = np.concatenate([np.zeros(1, np.uint32), registers])
        registers = _apply(past, registers[0::2]) ^ registers[1::2]
        past = _apply(past, past)
    return int(registers[0]) ^ 0xFFFFFFFF


@functools.cache
def _four_bytes() -> tuple[UInt32[np.ndarray, "65536"], UInt32[np.ndarray, "65536"]]:
    """Return what the lower and the upper half of a register become after four bytes."""
    halves = np.arange(2**16, dtype=np.uint32)
    return _apply(_zeros(4), halves), _apply(_zeros(4), halves << 16)


def _zeros(count: int) -> UInt32[np.ndarray, "32"]:
    """Return what each bit of a register becomes after `count` zero bytes; `count` is a power of two."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    past = _one_byte()[bits & 0xFF] ^ (bits >> 8)
    for _ in range(count.bit_length() - 1):
        past = _apply(past, past)
    return past


def _apply(
    past: UInt32[np.ndarray, "32"], registers: UInt32[np.ndarray, " lane"]
) -> UInt32[np.ndarray, " lane"]:
    """Return what registers become, given what each bit of a register becomes."""
    result = np.zeros_like(registers)
    for bit in range(32):
        result ^= np.where((registers >> np.uint32(bit)) & 1, past[bit], np.uint32(0))
    return result


def masked(checksum: int) -> int:
    """Return a checksum as the files have it: turned right by 15 bits, plus a constant."""
    turned = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return (turned + _MASK_DELTA) & 0xFFFFFFFF


def read_record_at(path: Path, number: int) -> bytes:
    """Return the data of one record, counted from 0; RecordingError if it is not there or damaged."""
    offset, length, checksum = _find(path, number)
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    if masked(crc32c(data)) != checksum:
        raise RecordingError(
            f"{path}: record {number} at byte {offset - HEADER} is damaged (its checksum differs); copy the "
            f"file again from where it came from"
        )
    return data


def record_identity(path: Path, number: int) -> tuple[int, int]:
    """Return the length and the stored checksum of a record's data, without reading the data."""
    _, length, checksum = _find(path, number)
    return length, checksum


def count_records(path: Path) -> int:
    """Return how many records a file has; RecordingError if it ends inside one."""
    size, position, count = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while position < size:
            position += HEADER + _length(file.read(HEADER), path, count, position, size) + FOOTER
            file.seek(position)
            count += 1
    return count


def _find(path: Path, number: int) -> tuple[int, int, int]:
    """Return where the data of a record begins, its length and its stored checksum."""
    size, position, length = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        for current in range(number + 1):
            if position >= size:
                raise RecordingError(f"{path}: expected a record {number}, found {current} records")
            length = _length(file.read(HEADER), path, current, position, size)
            if current < number:
                position += HEADER + length + FOOTER
                file.seek(position)
        file.seek(position + HEADER + length)
        (checksum,) = struct.unpack("<I", file.read(FOOTER))
    return position + HEADER, length, checksum


def _length(header: bytes, path: Path, number: int, position: int, size: int) -> int:
    where = f"{path}: record {number} at byte {position}"
    if len(header) < HEADER:
        raise RecordingError(f"{where} is cut off; copy the file again from where it came from")
    length, checksum = struct.unpack("<QI", header)
    if masked(crc32c(header[:8])) != checksum:
        raise RecordingError(
            f"{where} has a damaged length (its checksum differs): this is no TFRecord file, or a changed one"
        )
    if position + HEADER + length + FOOTER > size:
        raise RecordingError(
            f"{where} is cut off: its {length} bytes reach beyond the end of the file; copy it again"
        )
    return length

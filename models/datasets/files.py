"""Text of a data set's file, plain or gzip, bounded before it is read."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Final

BOM: Final = b"\xef\xbb\xbf"  # some editors begin a UTF-8 file with it
TEXT_LIMIT: Final = 64 * 1024 * 1024  # the largest file read here has 10 MiB


class DatasetError(ValueError):
    """A data set's file is missing or is not what it should be; nothing of it is used. The message names the file."""


def read_bytes(file: Path, limit: int) -> bytes:
    """Return the content of *file*; ``.gz`` is unpacked, and more than *limit* bytes are not read.

    Raises:
        DatasetError: If the file is missing or no file, cannot be unpacked, or is too large.
    """
    if not file.is_file():
        raise DatasetError(f"{file}: is not a file; put it there or correct the path")
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{file}: cannot be read ({error}); get it again from its source") from error
    if len(content) > limit:
        raise DatasetError(f"{file}: holds more than {limit // 2**20} MiB; it is not read")
    return content


def read_text(file: Path) -> str:
    """Return the text of *file*; ``.gz`` is unpacked, at most 64 MiB of it.

    Raises:
        DatasetError: If the file is missing, cannot be unpacked, is too large, or is not UTF-8 text.
    """
    if not file.is_file():
        raise DatasetError(f"{file}: cannot be read (it is not there); is --data the folder of the data sets?")
    content = read_bytes(file, TEXT_LIMIT)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: is not text ({error.reason} at byte {error.start}); it is not used") from error

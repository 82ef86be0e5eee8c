"""Read a pickle of arrays, lists and texts, and nothing that could run code or fill the memory."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from convloop.errors import DataError

_MAX_FILE_BYTES = 2**30


def read_pickle(file: Path) -> dict[str, Any]:
    """Read the dictionary of a pickle whose texts may be bytes of Python 2; its keys become str.

    Raises:
        DataError: it is missing, damaged, no dictionary, or names anything but numpy's arrays.
    """
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError(f"it holds more than {_MAX_FILE_BYTES:,} bytes")
        tree = _Restricted(io.BytesIO(file.read_bytes())).load()
        if not isinstance(tree, dict):
            raise ValueError(f"it holds a {type(tree).__name__}, not a dictionary")
        return {_text(key): value for key, value in tree.items()}
    except Exception as error:  # a damaged pickle can raise anything
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{file} cannot be read as a pickle of arrays: {reason}. Fetch that file again.") from error


class _Restricted(pickle._Unpickler):
    """Knows three names. The slow, pure Python class: the fast one lets a damaged index allocate gigabytes."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known[module, name]


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray[Any, Any]:
    """Begin an array as numpy pickles it: empty; shape and bytes follow, and numpy compares them."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"it begins an array of shape {shape}")
    return np.ndarray(shape, np.uint8)


def _latin1(text: str, encoding: Any) -> bytes:
    return text.encode("latin-1")


def _text(key: Any) -> str:
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)

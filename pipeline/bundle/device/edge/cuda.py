"""The CUDA driver by ctypes: all that it takes to run a plan, with no package to install.

libcuda belongs to the driver, so it is on every machine that can run an engine, Jetson included,
and these functions are the same in all versions of CUDA.
"""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


class CudaError(Exception):
    """CUDA is not here, or a call of it failed."""


@dataclass(frozen=True)
class Device:
    """The first CUDA device, made current: its primary context, which TensorRT shares."""

    driver: ctypes.CDLL
    name: str
    compute_capability: str

    def allocate(self, size_bytes: int) -> int:
        """Return the address of that much device memory."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return address.value

    def free(self, address: int) -> None:
        """Give device memory back."""
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy a contiguous array to the device."""
        self.call(
            "cuMemcpyHtoD_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
        )

    def download(self, array: NDArray[Any], address: int) -> None:
        """Fill a contiguous array from the device."""
        self.call(
            "cuMemcpyDtoH_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
        )

    def stream(self) -> int:
        """Return a new stream; it lives as long as the process."""
        handle = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(handle), ctypes.c_uint(0))
        return handle.value or 0

    def wait(self, stream: int) -> None:
        """Return when everything on the stream is done."""
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the driver; `CudaError` where it fails."""
        _call(self.driver, function, *arguments)


def first_device() -> Device:
    """Return the first device the driver shows to this process (CUDA_VISIBLE_DEVICES counts).

    Raises:
        CudaError: there is no driver, or no device.
    """
    try:
        driver = ctypes.CDLL(LIBRARY)
        _call(driver, "cuInit", ctypes.c_uint(0))
    except (OSError, CudaError) as e:
        raise CudaError(f"no CUDA device ({e})") from e
    count, handle = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise CudaError("no CUDA device")
    _call(driver, "cuDeviceGet", ctypes.byref(handle), ctypes.c_int(0))
    name, context = ctypes.create_string_buffer(256), ctypes.c_void_p()
    _call(driver, "cuDeviceGetName", name, ctypes.c_int(len(name)), handle)
    _call(driver, "cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    _call(driver, "cuCtxSetCurrent", context)
    major, minor = (_attribute(driver, attribute, handle) for attribute in (MAJOR, MINOR))
    return Device(driver, name.value.decode(), f"{major}.{minor}")


def _attribute(driver: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), device)
    return value.value


def _call(driver: ctypes.CDLL, function: str, *arguments: Any) -> None:
    if (code := getattr(driver, function)(*arguments)) == 0:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
    raise CudaError(f"{function}: {(text.value or b'').decode() or f'error {code}'}")

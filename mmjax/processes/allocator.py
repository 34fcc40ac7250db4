"""What the C library does with memory that was freed, where the CPU computes."""

import contextlib
import ctypes
import glob
import os

# Parameters of mallopt(3), glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE, _OLD_LARGE = 1 << 27, 1 << 25  # bytes; glibc before 2.35 takes no more than the second
_MOST = (1 << 31) - 1
# Where these are, devices compute, and the host's threads share no lock that they need not.
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*", "/dev/kfd", "/dev/dxg")


def keep_freed_memory() -> bool:
    """Lets freed buffers be used again rather than given back; before any thread asks for memory.

    XLA takes a program's temporaries from `malloc` in each run and frees them after it. glibc maps
    large ones anew every time, and the kernel clears each of their pages again: a fifth of a
    training step of `language_emoji` on two cores. Here blocks below 128 MiB come from one heap,
    which keeps what was freed; larger ones are mapped as before, and go back. Not larger, because
    a block that must be aligned does not always fit where one of its size was: a few more of them
    may be held than are used.

    Returns:
      Whether it was done: not where an accelerator is, where another C library is, and where the
      environment has settings of its own (MALLOC_..., GLIBC_TUNABLES).
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    if any(glob.glob(pattern) for pattern in _ACCELERATORS):
        return False
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        if not hasattr(library, "gnu_get_libc_version"):
            return False
        set_option = library.mallopt
        if not (set_option(_MMAP_THRESHOLD, _LARGE) or set_option(_MMAP_THRESHOLD, _OLD_LARGE)):
            return False
        return bool(set_option(_TRIM_THRESHOLD, _MOST) and set_option(_ARENA_MAX, 1))
    return False

"""Have the C library keep the memory it frees, so that the next batch's maps need no new pages from the system.

By default glibc gives large blocks back at once. A backbone's maps are such blocks: each batch then pays for finding, clearing
and mapping all its pages again, which can take longer than computing what goes into them.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory", "release_freed_memory"]

# Numbers of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_LARGEST = 2**31 - 1
_PAD_BYTES = 1 << 26


def keep_freed_memory() -> bool:
    """Keep freed memory in this process from now on. Call it early: threads that allocated before keep their own ways.

    Memory in use stays at its peak, until `release_freed_memory`.

    Returns:
        Whether the C library has the means (glibc does); elsewhere nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # One arena: those of other threads are cut into pieces too small for large blocks.
    settings = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _PAD_BYTES))
    return all([mallopt(number, value) == 1 for number, value in settings])


def release_freed_memory() -> None:
    """Give freed memory back to the system now, where the C library has the means."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return

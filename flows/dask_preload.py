"""What Dask's processes load when they start: `dask worker … --preload flows.dask_preload`, and `dask scheduler` as well.

The C library is told to keep freed memory before anything else is done here: threads that have allocated before keep arenas of
their own, whose blocks above 64 MB go back to the system at every free, which costs a batch's maps a fifth of their time. Then
what parts need is imported: the first parts would wait for it otherwise, twice, as the scheduler unpacks them too.
"""

from hypercolumns.allocator import keep_freed_memory

__all__ = ["dask_setup"]

keep_freed_memory()


def dask_setup(_server: object) -> None:
    """Import what parts need; Dask calls this before a worker reports to its scheduler."""
    import flows.dask_fleet  # noqa: F401

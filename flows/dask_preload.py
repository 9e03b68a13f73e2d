"""What Dask's processes load when they start: `dask worker … --preload flows.dask_preload`, and `dask scheduler` as well.

The C library is told to keep freed memory before anything else is done here: threads that have allocated before keep arenas of
their own, whose blocks above 64 MB go back to the system at every free, which costs a batch's maps a fifth of their time. Then
what parts need is imported: the first parts would wait for it otherwise, twice, as the scheduler unpacks them too.

Dask's statistical profiler is left off, unless the environment asks for it: it looks at every thread a hundred times a second,
which takes two of the nearly five hundredths of a core that an idle worker uses (docs/scaling.md).
"""

import os

import dask

from hypercolumns.allocator import keep_freed_memory

__all__ = ["dask_setup"]

_PROFILE = "distributed.worker.profile.enabled"

keep_freed_memory()
if "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED" not in os.environ:
    dask.config.set({_PROFILE: False})


def dask_setup(_server: object) -> None:
    """Import what parts need; Dask calls this before a worker reports to its scheduler."""
    import flows.dask_fleet  # noqa: F401

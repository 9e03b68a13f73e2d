"""The process of an embedded Prefect server: it ends with the one that started it, however that one ends.

Run as a program, with a pipe as its input that the starter holds open: the system closes it when the starter is gone, also by
kill -9, where nobody is left to end anything.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__ = ["main"]

_SERVER = "prefect.server.api.server:create_app"
_GRACE_SECONDS = 1


def main(host: str, port: int) -> None:
    """Serve until the starter is gone, or a signal comes."""
    threading.Thread(target=_end_with_starter, name="end-with-starter", daemon=True).start()
    import uvicorn

    uvicorn.run(
        _SERVER, factory=True, host=host, port=port, log_level="error", lifespan="on", timeout_graceful_shutdown=_GRACE_SECONDS
    )


def _end_with_starter() -> None:
    # Nobody writes to it: reading returns when the last holder of its other end is gone.
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

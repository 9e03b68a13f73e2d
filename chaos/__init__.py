"""Campaigns that break things on purpose, and count what was lost: nothing may be.

`python -m chaos.run` runs them all; `docs/reliability.md` tells what they do. Not part of the installed packages.
"""

from storage import direct

# The stores that are broken here are small. Their files get their place beforehand all the same, as those of large ones do.
direct.PLACED_FROM = 0

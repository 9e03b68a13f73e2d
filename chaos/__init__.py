"""Campaigns that break things on purpose, and count what was lost: nothing may be.

`python -m chaos.run` runs them all; `docs/reliability.md` tells what they do. Not part of the installed packages.
"""

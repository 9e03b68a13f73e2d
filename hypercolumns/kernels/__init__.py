"""Loops over numbers that no chain of torch's operations does at the speed of memory, compiled when first called (Numba).

Torch's own operations write what they make to memory and read it again for the next one. Where a number is used once and at
once (a response on its way to four pixels, a cell on its way to a point), that traffic is most of the time. The kernels here
are plain loops, one about each such thing; all else stays torch's. They run on CPUs, on torch's own threads
(`hypercolumns.kernels.team`), in float32, whatever is stored.
"""

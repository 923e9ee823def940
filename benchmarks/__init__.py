"""What the package costs, beside its peers and beside what the machine allows, in one run: ``python -m benchmarks``.

A module for each measurement; ``peers`` has a small file for each system, ``fleet`` the processes, ``servers`` the
servers, ``report`` the tables and the aims, ``picture`` the SVG. Every candidate is a process (``candidate``), or,
where a thousand are needed, one of many threads in a few processes or of many connections in an event loop (``light``).
They tell instants of CLOCK_MONOTONIC.
"""

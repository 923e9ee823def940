"""The few statistics of the tables. Medians and quartiles, since a shared machine stalls now and then."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """A distribution in a few numbers."""

    count: int
    median: float
    p25: float
    p75: float
    p99: float
    most: float


def summarize(times: Sequence[float]) -> Summary:
    """Of at least one number. Of few, the 99th percentile is nearly the highest."""
    if len(times) == 1:
        return Summary(1, *(times[0],) * 5)
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return Summary(len(times), statistics.median(times), cuts[24], cuts[74], cuts[98], max(times))


def number(value: float) -> str:
    """Three digits, and thousands as they are."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if abs(value) >= 1 else 3
    return f"{value:.{digits if abs(value) < 10 else 1}f}" if abs(value) >= 0.001 else f"{value:.2g}"

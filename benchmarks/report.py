"""What was measured, as text for a terminal and as Markdown: tables, and each ratio beside its aim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.stats import Summary, number


@dataclass
class Section:
    """One measurement."""

    title: str
    command: str
    note: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    """By name, for the aims."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What could not be measured, and why."""
    samples: dict[str, list[float]] = field(default_factory=dict)
    """For the picture."""
    seconds: float = 0.0

    def text(self) -> str:
        """For a terminal."""
        lines = _table([self.headers, *self.rows])
        lines += [f"  left out: {name} ({reason})" for name, reason in self.left_out.items()]
        return "\n".join([f"\n{self.title}  [{self.seconds:.0f} s]", *lines])

    def markdown(self) -> str:
        """For a file."""
        lines = [f"## {self.title}", "", f"`{self.command}` — {self.seconds:.0f} s. {self.note}", ""]
        lines += [_row(self.headers), _row(["---", *["---:"] * (len(self.headers) - 1)])]
        lines += [_row(row) for row in self.rows]
        if self.left_out:
            lines += [
                "",
                "Left out: " + "; ".join(f"{name} ({reason})" for name, reason in self.left_out.items()) + ".",
            ]
        return "\n".join([*lines, ""])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns for a terminal: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(["", first.strip().ljust(widths[0]), *others]).rstrip().replace("**", ""))
    return lines


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


SPREAD = ("median", "p25", "p75", "p99", "rounds")


def spread(summary: Summary) -> tuple[str, ...]:
    """Return the cells below ``SPREAD``."""
    return (*(number(value) for value in (summary.median, summary.p25, summary.p75, summary.p99)), str(summary.count))


@dataclass(frozen=True)
class Aim:
    """A ratio that was promised."""

    what: str
    measured: float | None
    limit: float
    unit: str = ""

    @property
    def verdict(self) -> str:
        """Whether it was met."""
        if self.measured is None:
            return "not measured"
        return "met" if self.measured <= self.limit else "**not met**"

    @property
    def cells(self) -> tuple[str, ...]:
        """The aim, what was measured, whether that is so."""
        measured = "" if self.measured is None else f"{number(self.measured)}{self.unit}"
        return (self.what, f"≤ {number(self.limit)}{self.unit}", measured, self.verdict)


AIM_HEADERS = ("aim", "limit", "measured", "")


def aims(values: Mapping[str, float]) -> list[Aim]:
    """Return what the values of all sections say of the promises."""

    def ratio(above: str, below: str) -> float | None:
        return values[above] / values[below] if values.get(below) and above in values else None

    return [
        Aim("hand-over, 3 candidates: median / the fastest peer's", ratio("handover", "handover peer"), 0.5),
        Aim("hand-over, 3 candidates: median / a bare BLPOP wake-up", ratio("handover", "wake-up"), 2),
        Aim("hand-over, 3 candidates: p99 / median", ratio("handover p99", "handover"), 5),
        Aim(
            "hand-over, light candidates: median with 999 / with 3",
            ratio("handover light 999", "handover light 3"),
            2,
        ),
        Aim("crash on the same host: median", values.get("crash here"), 10, " ms"),
        Aim("crash on the same host: fraction of the TTL", values.get("crash here of TTL"), 0.01),
        Aim("crash elsewhere: median above what was left of the lease", values.get("crash elsewhere late"), 20, " ms"),
        Aim("the local check / a bare function that compares a clock", ratio("check", "bare"), 1.5),
        Aim("the local check / the fastest peer's with a deadline", ratio("check", "check peer"), 1),
        Aim("the local check / the least that also says no in a forked child", ratio("check", "check guarded"), 1),
        Aim("a claim of a slot / a bare EVALSHA that reads and writes a field", ratio("claim", "bare claim"), 1.5),
        Aim("1,000 jobs due at one instant: the last start", values.get("last of a thousand"), 1000, " ms"),
        Aim("django.setup() with our app, where no election starts: more", values.get("setup command"), 15, " ms"),
        Aim("first connects in the thread of django.setup(), where one starts", values.get("setup connects"), 0),
        Aim("1,000 idle: requests / the direct port's", ratio("idle requests", "idle requests port"), 1),
        Aim("1,000 idle: server CPU / the direct port's", ratio("idle server", "idle server port"), 1.5),
        Aim("1,000 idle: a candidate's CPU / the direct port's", ratio("idle candidate", "idle candidate port"), 0.5),
    ]


def aims_text(values: Mapping[str, float]) -> str:
    """Return the aims for a terminal, as far as they were measured."""
    rows = [aim.cells for aim in aims(values) if aim.measured is not None]
    return "\n".join(["\nAims", *_table([AIM_HEADERS, *rows])]) if rows else ""


def document(machine: Mapping[str, str], sections: Iterable[Section]) -> str:
    """RESULTS.md."""
    sections = list(sections)
    values = {name: value for section in sections for name, value in section.values.items()}
    lines = [
        "# Results",
        "",
        "Made by `make bench`: figures of one machine at one time. The ratios mean something, the times do not carry",
        "over. Unless it says otherwise, what is in one table was measured in turns.",
        "",
        *[f"- {name}: {value}" for name, value in machine.items()],
        "",
        "![Hand-over, by system](handover.svg)",
        "",
        "## Aims",
        "",
        _row(AIM_HEADERS),
        _row(["---", "---:", "---:", "---"]),
        *[_row(aim.cells) for aim in aims(values)],
        "",
    ]
    return "\n".join(lines) + "\n" + "\n".join(section.markdown() for section in sections)

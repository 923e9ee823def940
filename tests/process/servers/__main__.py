"""``python -m tests.process.servers``: runs Django in every way, and prints what was seen as a table."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

from tests.process.servers.harness import AT_A_TIME, Row, missing, try_way
from tests.process.servers.ways import WAYS, Command

HEADER = (
    "way of running",
    "version",
    "candidates",
    "stop: next leads after",
    "kill -9 of the leader",
    "kill -9 of the main process",
    "exit status (without us)",
    "what matters",
)


def say(text: str) -> None:
    """A line for whoever watches."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def milliseconds(values: list[float | None]) -> str:
    """The shortest and the longest."""
    found = sorted(round(value) for value in values if value is not None)
    return " to ".join(map(str, sorted({found[0], found[-1]}))) + " ms" if found else "-"


def cells(rows: list[Row]) -> tuple[str, ...]:
    """The line of one way, which was tried as often as there are rows."""
    statuses = {f"{row.status} ({row.status_without_us})".replace("None", "-") for row in rows}
    failed = sum(bool(row.problems) for row in rows)
    way = rows[0].way
    return (
        way.name,
        f"{way.package} {version(way.package)}",
        ", ".join(sorted({row.candidates for row in rows})),
        milliseconds([row.stopped for row in rows]),
        milliseconds([row.killed for row in rows]),
        milliseconds([row.main_killed for row in rows]),
        ", ".join(sorted(statuses)),
        f"NOT AS WANTED {failed} of {len(rows)} times" if failed else way.note,
    )


def table(lines: list[tuple[str, ...]]) -> str:
    """Markdown that is also readable as it is."""
    widths = [max(map(len, column)) for column in zip(HEADER, *lines, strict=True)]

    def line(texts: tuple[str, ...]) -> str:
        return "| " + " | ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)) + " |"

    return "\n".join([line(HEADER), line(tuple("-" * width for width in widths)), *map(line, lines)])


def main() -> int:
    """Prints the table. Gives the exit status."""
    parser = argparse.ArgumentParser(description="Runs Django in every way, and prints what was seen as a table.")
    parser.add_argument("names", nargs="*", help="only ways whose name contains one of these")
    parser.add_argument("--rounds", type=int, default=1, help="how often each way is tried")
    options = parser.parse_args()
    chosen = [way for way in WAYS if not options.names or any(name in way.name for name in options.names)]
    for way in chosen:
        if names := missing(way):
            say(f"left out: {way.name}: {', '.join(names)} is not installed")
    ways = [way for way in chosen if not missing(way)]
    tried: dict[str, list[Row]] = {way.name: [] for way in ways}

    def try_and_tell(way: Command) -> Row:
        row = try_way(way)
        say(f"{way.name}: {'; '.join(row.problems) or 'as wanted'}")
        return row

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for _ in range(options.rounds):
            for row in pool.map(try_and_tell, ways):
                tried[row.way.name].append(row)
    failed = [name for name, rows in tried.items() if any(row.problems for row in rows)]
    verdict = f"NOT as wanted: {', '.join(failed)}" if failed else "all as wanted"
    sys.stdout.write(f"{table([cells(rows) for rows in tried.values()])}\n\n")
    say(f"{len(ways)} ways, {options.rounds} times: {verdict}")
    return bool(failed) or not ways


if __name__ == "__main__":
    sys.exit(main())

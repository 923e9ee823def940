"""``python -m tests.rules``: which tests hold which rule of safety. The exit status is 1 if a rule has no test.

A test names the rules that it holds: ``test_s08_s19_…`` holds S8 and S19. Four rules have no tests. S21, S27 and S28
are about what the package does not do: run another program as the leader, and hand a term over on request. S22 says
that nothing is promised where a running process or machine is cloned.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
RULES = {
    1: "A process leads only until TTL - margin has passed since it sent the request that was granted.",
    2: "At least two tries of a renewal fit into a lease; settings that break this are repaired or refused.",
    3: "A term that has ended never comes back. The next term has another token.",
    4: "is_leader() and the token are read without lock or I/O, never raise, and once false stay so for that token.",
    5: "A lost reply makes no leader, extends no lease, and locks nobody out for longer than a lease.",
    6: "An election has its own connection, and a reply is used only if it belongs to the request and the process.",
    7: "Each process is a candidate of its own, also where two have the same instance id.",
    8: "A term ends in order: not the leader, then loss callbacks, then the release, which deletes only its own lease.",
    9: "The loss is announced on time even if the thread that talks to Redis hangs.",
    10: "A leader whose lease still lasts restores its term, with its token, on a server that has lost its data.",
    11: "After a loss of data no other process leads before every lease that may have been lost is over.",
    12: "A server's clock that is set ends no lease early: a candidate proves the end of a state on its own clock.",
    13: "With MIN_REPLICAS a grant counts only when that many replicas have it, and a replica that joins is noticed.",
    14: "Fencing tokens only grow, also when the server has lost its data.",
    15: "A lost or foreign key makes no second leader, and a full memory ends no term.",
    16: "Gain and loss callbacks come in pairs, one term at a time, and delay no renewal.",
    17: "No exception in callbacks, Redis or logging ends a thread of the election, and a thread that hangs is seen.",
    18: "Wall time decides nothing.",
    19: "A forked child is not the leader, and takes nothing away from its parent.",
    20: "A process that ends hands over first, in bounded time, and ends as it would have ended without us.",
    23: "A leader's process is recognized by boot, namespace, pid and start, also on machines from one snapshot.",
    24: "Only a pidfd of that very process proves the death of the leader; stopped is not dead.",
    25: "A dead leader's lease is claimed only if nothing has changed since, and never in a quarantine.",
    26: "The death of a process says nothing of its children: the same-host take-over can be turned off.",
}


def named(name: str) -> list[int]:
    """The rules that a test of this name holds."""
    match = re.match(r"test_((?:s\d\d_)+)", name)
    return [int(number) for number in re.findall(r"\d\d", match[1])] if match else []


def tests(folder: Path) -> Iterator[tuple[str, str]]:
    """Each test function below ``folder``: its path from there, with its name, and its name."""
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(folder)}::{node.name}", node.name


def main(folder: Path = FOLDER) -> int:
    """Prints the table, and gives the exit status."""
    held = defaultdict[int, list[str]](list)
    for place, name in tests(folder):
        for rule in named(name):
            held[rule].append(place)
    for rule, meaning in RULES.items():
        sys.stdout.write("\n  ".join([f"S{rule}  {meaning}", *(held[rule] or ["NO TEST"])]) + "\n")
    unknown = [place for rule in held.keys() - RULES.keys() for place in held[rule]]
    sys.stdout.writelines(f"NO SUCH RULE  {place}\n" for place in sorted(unknown))
    return int(bool(unknown) or not all(held[rule] for rule in RULES))


if __name__ == "__main__":
    sys.exit(main())

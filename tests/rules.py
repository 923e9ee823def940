"""``python -m tests.rules``: which tests hold which rule of safety. The exit status is 1 if a rule has no test.

A test names the rules that it holds: ``test_s08_s19_…`` holds S8 and S19, and ``test_j01_…`` holds J1. The rules S… are
about elections, J… about jobs (``protocol/slots.py``). Four rules have no tests. S21, S27 and S28 are about what the
package does not do: run another program as the leader, and hand a term over on request. S22 says that nothing is
promised where a running process or machine is cloned.
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
    "S1": "A process leads only until TTL - margin has passed since it sent the request that was granted.",
    "S2": "At least two tries of a renewal fit into a lease; settings that break this are repaired or refused.",
    "S3": "A term that has ended never comes back. The next term has another token.",
    "S4": "is_leader() and the token are read without lock or I/O, never raise, and once false stay so for that token.",
    "S5": "A lost reply makes no leader, extends no lease, and locks nobody out for longer than a lease.",
    "S6": "An election has its own connection, and uses a reply only if it belongs to the request and the process.",
    "S7": "Each process is a candidate of its own, also where two have the same instance id.",
    "S8": "A term ends in order: not the leader, then loss callbacks, then the release, which ends its own lease only.",
    "S9": "The loss is announced on time even if the thread that talks to Redis hangs.",
    "S10": "A leader whose lease still lasts restores its term, with its token, on a server that has lost its data.",
    "S11": "After a loss of data no other process leads before every lease that may have been lost is over.",
    "S12": "A server's clock that is set ends no lease early: a candidate proves the end of a state on its own clock.",
    "S13": "With MIN_REPLICAS a grant counts only when that many replicas have it; a replica that joins is noticed.",
    "S14": "Fencing tokens only grow, also when the server has lost its data.",
    "S15": "A lost or foreign key makes no second leader, and a full memory ends no term.",
    "S16": "Gain and loss callbacks come in pairs, one term at a time, and delay no renewal.",
    "S17": "No exception in callbacks, Redis or logging ends a thread of the election; a thread that hangs is seen.",
    "S18": "Wall time decides nothing.",
    "S19": "A forked child is not the leader, and takes nothing away from its parent.",
    "S20": "A process that ends hands over first, in bounded time, and ends as it would have ended without us.",
    "S23": "A leader's process is recognized by boot, namespace, pid and start, also on machines from one snapshot.",
    "S24": "Only a pidfd of that very process proves the death of the leader; stopped is not dead.",
    "S25": "A dead leader's lease is claimed only if nothing has changed since, and never in a quarantine.",
    "S26": "The death of a process says nothing of its children: the same-host take-over can be turned off.",
    "J1": "A slot of a job is started at most once.",
    "J2": "Redis refuses the claim of a stale leader, and one that comes too late.",
    "J3": "Only the server's clock counts, and a clock that goes back starts nothing twice.",
    "J4": "Every slot is run, or a record says why not.",
    "J5": "A run of a term that is over is in doubt: it is skipped, or started again three times at most.",
    "J6": "After a loss of data, slots that may have been started on the lost data are in doubt.",
    "J7": "A claim or an end whose reply was lost is told again and counts once.",
    "J8": "A slot that comes during a run is skipped, and a hung run blocks no other.",
    "J9": "With MIN_REPLICAS a claim counts only when that many replicas have it.",
    "J10": "Whatever others write to the keys starts nothing twice, and keeps no job from running for ever.",
    "J11": "An order to run a job now is started at most once, by the term that was meant, and decides no slot.",
}


def named(name: str) -> list[str]:
    """The rules that a test of this name holds."""
    match = re.match(r"test_((?:[sj]\d\d_)+)", name)
    found = re.findall(r"([sj])(\d\d)", match[1]) if match else []
    return [f"{letter.upper()}{int(number)}" for letter, number in found]


def tests(folder: Path) -> Iterator[tuple[str, str]]:
    """Each test function below ``folder``: its path from there, with its name, and its name."""
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(folder)}::{node.name}", node.name


def main(folder: Path = FOLDER) -> int:
    """Prints the table, and gives the exit status."""
    held = defaultdict[str, list[str]](list)
    for place, name in tests(folder):
        for rule in named(name):
            held[rule].append(place)
    for rule, meaning in RULES.items():
        sys.stdout.write("\n  ".join([f"{rule}  {meaning}", *(held[rule] or ["NO TEST"])]) + "\n")
    unknown = [place for rule in held.keys() - RULES.keys() for place in held[rule]]
    sys.stdout.writelines(f"NO SUCH RULE  {place}\n" for place in sorted(unknown))
    return int(bool(unknown) or not all(held[rule] for rule in RULES))


if __name__ == "__main__":
    sys.exit(main())

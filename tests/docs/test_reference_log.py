"""The pages about the log and about starts have every text of the package, and no others."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Collection, Iterator
from types import ModuleType

import pytest

from django_leader.protocol.scripts import NOT_UNDERSTOOD
from django_leader.redis import reasons
from django_leader.runtime import diagnostics
from django_leader.runtime.jobs import NOT_RUN, JobLoop
from django_leader.runtime.work import Gain, Work
from django_leader.startup import autostart, servers
from django_leader.system import starvation
from tests.docs.pages import page, rows, sections, shown, spans
from tests.support.sentences import LOGGER, PACKAGE, PLACE, VALUE, Line, Source, fits, logged, missing, source, sources

LEVELS = ("ERROR", "WARNING", "INFO", "DEBUG")


LOG = {
    heading: (level, text)
    for level in LEVELS
    for heading, text in sections(sections(page("reference/log"), 2)[level], 3).items()
}
OUTAGES = [value for value in vars(diagnostics).values() if isinstance(value, diagnostics.Outage)]
GAINS = [
    inspect.signature(Gain).parameters["what"].default,
    *(text for text in source("runtime/listeners.py").arguments("Gain", 1) if text != VALUE),
    Work.what,
    JobLoop.what,
    *source("signals.py").arguments("election.listen", 3),
]
FIXED = [
    *(text for outage in OUTAGES for text in outage[:2]),
    *GAINS,
    *(text for module in sources() for text in module.made("Text")),
    *(text for name in ("work", "jobs") for text in source(f"runtime/{name}.py").returned("said")),
    *(text for _, text in NOT_RUN.values()),
    *source("system/forks.py").returned("unsupported"),
    *source("system/log.py").returned("way_to"),
    f"{VALUE} UTC",
]
"""What a log line may have in the place of a value, and a page may therefore spell out."""
EVICTS = {"maxmemory": "1", "maxmemory_policy": "<policy>", "connected_slaves": "<n>"}


REFUSED = [text for text in source("startup/autostart.py").returned("refusal") if text]
SPELLED = {
    ("_run_gain", "ERROR"): GAINS,
    ("_decide", "ERROR"): [servers.THREADLESS, *REFUSED],
    ("_decide", "WARNING"): [
        autostart.STARTED_BY_TESTS,
        *filter(None, source("system/forks.py").returned("unsupported")),
    ],
}
"""What can be in the last place of a line, where the page has a line for each."""


def lines() -> Iterator[Line]:
    """Every log line, with those that are made elsewhere and logged as they are."""
    made = {
        "answered": [outage.ends for outage in OUTAGES[:1]],
        "project": source("runtime/diagnostics.py").returned("shared_key"),
        "server": diagnostics.server_warnings(EVICTS, 0),
    }
    for line in logged():
        text = line.text.replace(f"LEADER_ELECTIONS[{VALUE}]", "<election>")
        before, _, behind = text.rpartition(VALUE)
        if text == f"{VALUE}: {VALUE}":
            yield from (line._replace(text=f"{VALUE}: {end}") for end in made[line.function])
        elif (line.function, line.level) in SPELLED and before.endswith(": "):
            yield from (line._replace(text=before + end + behind) for end in SPELLED[line.function, line.level])
        elif (line.place.partition(":")[0], line.function) != ("runtime/term_log.py", "write"):  # what was added there
            yield line._replace(text=text)


LOGGED_BEFORE = f"{VALUE}: a receiver of became_leader raised an exception"
"""The failure of a receiver raises ``Logged``, for which there is no second line."""
INSISTED = " failed, and is tried again every 0.2 seconds"


@pytest.mark.parametrize("line", [line for line in lines() if line.text != LOGGED_BEFORE], ids=lambda line: line.place)
def test_a_log_line_is_on_its_page(line: Line) -> None:
    """With its level, its fields, and whether it has a traceback."""
    before, insisted, behind = line.text.partition(INSISTED)
    text = VALUE + insisted + behind if insisted else line.text
    found = [(level, body) for level, body in LOG.values() if any(fits(text, block, FIXED) for block in shown(body))]
    assert found, text
    assert missing([before] if insisted else [], spans(found[0][1])) == []
    assert line.level in ("", *(level for level, _ in found))
    [body] = {body for level, body in found if line.level in ("", level)}
    assert line.level or "Level: " in body
    [told] = re.findall(r"^Fields: .*$", body, re.MULTILINE)
    assert set(spans(told)) == line.fields
    assert ("none" in told) == (not line.fields)
    assert "traceback" in told if line.traceback else "With a traceback" not in told


def test_only_one_module_uses_a_logger() -> None:
    """The others call its function ``log``, which is how the lines are found."""
    assert {module.name for module in sources() for _ in module.calls(*LOGGER)} == {"system/log.py"}


def test_the_page_has_no_line_that_is_not_logged() -> None:
    texts = [line.text for line in lines()]
    texts += [VALUE + INSISTED + text.partition(INSISTED)[2] for text in texts if INSISTED in text]
    blocks = [block for _, body in LOG.values() for block in shown(body)]
    assert len(blocks) > 40
    assert [block for block in blocks if not any(fits(text, block, FIXED) for text in texts)] == []


def test_the_table_of_all_lines_names_each_section_and_its_level() -> None:
    table = rows(sections(page("reference/log"), 2)["All lines"])
    named = [(level, re.findall(r"^\[(.+?)\]\(", name)[0]) for level, name, _ in table]
    told = {name: re.findall("^Level: .*$", body, re.MULTILINE) for name, (_, body) in LOG.items()}
    others = {name: [level for level in ("INFO", "ERROR") if level in "".join(told[name])] for name in LOG}
    assert named == [(", ".join([level, *others[name]]), name) for name, (level, _) in LOG.items()]


def test_the_fields_of_the_records_are_in_their_table() -> None:
    table = rows(sections(page("reference/log"), 2)["Fields"])
    assert {name.strip("`") for name, *_ in table} == set().union(*(line.fields for line in logged()))


def says(span: str, text: str) -> bool:
    """Whether a text is what a page shows with words in angle brackets, or shortens by an ellipsis.

    What begins with such a word would say everything.
    """
    shortened = re.escape(re.sub(PLACE, VALUE, span)).replace(re.escape(VALUE), ".+").replace("…", ".*")
    return not span.startswith("<") and re.fullmatch(shortened, text) is not None


def unsaid(texts: Collection[str], places: Collection[str]) -> list[str]:
    return [text for text in texts if not any(says(place, text) for place in places)]


def test_each_outage_is_on_the_page() -> None:
    begin, end = (spans(LOG[name][1]) for name in ("Redis is unreachable", "Redis is reachable again"))
    assert [text for outage in OUTAGES for text in outage[:2] if text not in begin] == []
    assert {outage.ends for outage in OUTAGES[1:]} <= set(end)


def test_each_cause_of_an_outage_is_on_the_page() -> None:
    found = spans(LOG["Redis is unreachable"][1])
    own = source("redis/reasons.py")
    texts = [text for name in ("explain", "_of_system") for text in own.returned(name) if text.strip(VALUE)]
    texts += source("redis/connector.py").arguments("NoPrimary", 0)
    texts += source("redis/limits.py").arguments("super().__init__", 0)
    texts += source("protocol/template.py").arguments("GarbledReply", 0)
    texts += source("protocol/session.py").arguments("self.failed", 1)
    assert len(texts) > 12
    assert missing(texts, found) == []
    denied = ". The Redis user lacks a right"
    answers = [reasons._answered(code, "") + denied * (code == "NOPERM") for code in reasons.MEANINGS]
    answers += [
        reasons._answered("an error", ""),
        reasons._answered("an error", "unknown command 'X'"),
        reasons._answered("NOPERM", "to run the 'X'") + denied,
    ]
    assert unsaid(answers, found) == []
    for phrase in reasons.PHRASES:  # the first one never reaches a user: the runner understands it
        assert phrase == NOT_UNDERSTOOD or any(span.endswith(f": {phrase}") for span in found), phrase


def test_each_error_of_redis_is_on_a_page() -> None:
    found = [span for name in ("api", "json") for span in spans(page(f"reference/{name}"))]
    texts = {
        text.removeprefix(f"{VALUE}: ") for module in sources() for text in module.arguments("RedisUnavailable", 0)
    }
    texts.remove("LOCAL is True: this election does not use Redis")  # nothing asks it for more
    assert len(texts - {VALUE}) >= 2
    assert missing(texts - {VALUE}, found) == []


def test_each_cause_of_a_late_heartbeat_is_on_the_page() -> None:
    table = [spans(cell)[0] for [cell] in rows(LOG["a heartbeat is late"][1])]
    advice = [".*".join(map(re.escape, re.split(r"\{\w+\}", text))) for text in starvation.ADVICE.values()]
    assert [text for text in advice if not any(re.fullmatch(text, cell) for cell in table)] == []
    assert [cell for cell in table if not any(re.fullmatch(text, cell) for text in advice)] == []


def test_each_thread_that_can_wait_is_on_the_page() -> None:
    names = [name for module in sources() for name in module.arguments("Start", 1)]
    assert len(set(names)) == 3
    assert missing(names, spans(LOG["not started yet"][1])) == []


def decisions() -> set[tuple[str, str]]:
    """When an election may start, and why, by the rules."""
    own = source("startup/autostart.py")
    [rules] = [
        node for node in ast.walk(own.tree) if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "rules"
    ]
    found = [call for call in ast.walk(own.tree) if isinstance(call, ast.Call) and ast.unparse(call.func) == "Decision"]
    assert isinstance(rules.value, ast.List)
    pairs = [rule.elts[1:] for rule in rules.value.elts if isinstance(rule, ast.Tuple)] + [call.args for call in found]
    pairs += [call.args for call in source("startup/starter.py").calls("Decision")]
    decided = {(start, why) for first, second in pairs for start in own.texts(first) for why in own.texts(second)}
    computed = [*source("system/forks.py").returned("unsupported"), *own.returned("refusal")]
    return {pair for pair in decided if pair[1] != VALUE} | {("never", why) for why in computed if why}


def test_each_reason_of_a_start_is_on_its_pages() -> None:
    explained = sections(page("reference/commands"), 3)["leader_status --explain"]
    table = {(start, spans(why)[0]) for why, starts in rows(explained) for start in starts.split(", ")}
    assert {
        (start, why) for start, why in decisions() if not any(start == one and fits(why, text) for one, text in table)
    } == set()
    assert {
        (one, text) for one, text in table if not any(start == one and fits(why, text) for start, why in decisions())
    } == set()
    started = [why for start, why in decisions() if start == "now"]
    started += filter(None, source("startup/starter.py").arguments("self._start", 0))
    assert missing(started, spans(LOG["started because"][1])) == []


def test_each_reason_of_no_candidate_is_on_the_page() -> None:
    silent = (autostart.TEST_RUN, f"this is the reloader of {VALUE}, not the process that serves")
    final = [why for start, why in decisions() if start == "never" and why not in silent]
    final += [why for start, why in decisions() if why.startswith("nothing shows")]
    final += ["it is a child of process 1, which is the candidate"]
    assert final[-1].replace("1", "{started}") in (PACKAGE / "startup/bystander.py").read_text(encoding="utf-8")
    assert (
        unsaid([why.replace(VALUE, "'x'") for why in final], spans(LOG["is_leader() is False in this process"][1]))
        == []
    )


def test_how_a_text_is_found() -> None:
    module = ModuleType("module")
    module.LIMIT, module.EMPTY = 3, "nothing"  # type: ignore[attr-defined]
    code = """
def function(some, error):
    text = "%s: too many"
    if some:
        text = f"{some!r} of {LIMIT:.1f}"
    text += " (%s)"
    log(1, text, error)
    what, _ = ("one", 1) if some else ("none", 0)
    log(2, what or EMPTY)
    run(partial(log, 3, Text("a %(name)s", name=EMPTY)))
"""
    found = Source("module.py", code, module)
    assert found.arguments("log", 1) == [
        "%s: too many (%s)", f"{VALUE} of 3.0 (%s)", "one", "none", "nothing", "a nothing",
    ]  # fmt: skip


def test_when_a_page_shows_a_text() -> None:
    text = f"{VALUE}: the end of {VALUE}"
    assert fits(text, "<election>: the end of '<what>'")
    assert fits(text, "<election>: the end of a term", ["a term"])
    assert not fits(text, "<election>: the end of a term")
    assert not fits(text, "<election>: the end of <what>, too")
    assert missing([text], ["the end of <what>"]) == [text]

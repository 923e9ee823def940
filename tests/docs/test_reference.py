"""The reference has every setting, check, name, signal, option and field of the package, and no others."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from io import StringIO
from types import FunctionType
from typing import Any, get_args

import pytest
from django.core.checks import CheckMessage
from django.core.management import call_command
from django.test import override_settings

import django_leader
from django_leader import (
    Config,
    LeaderElection,
    LeaderInfo,
    acl,
    admin,
    asgi,
    checks,
    exceptions,
    huey,
    job_checks,
    signals,
    testing,
)
from django_leader.conf import UnknownElection
from django_leader.decorators import GAVE_UP, UNAVAILABLE_EXIT, leader_required
from django_leader.job_checks import check_jobs
from django_leader.jobs import periodic
from django_leader.management import run_now
from django_leader.management.commands import leader_jobs, leader_status
from django_leader.protocol import config, pace, requests
from django_leader.protocol.jobs import LONGEST_GRACE
from django_leader.protocol.machine import Reason
from django_leader.protocol.orders import Look, Order, order_key
from django_leader.protocol.records import LONGEST_NAME, Event
from django_leader.protocol.schedule import SHORTEST_PERIOD
from django_leader.protocol.slots import Verdict, slot_keys
from django_leader.registry import jobs
from django_leader.runtime import diagnostics
from django_leader.runtime.orders import OPEN, Carried
from django_leader.settings import FIELDS, KEYS, ElectionSettings, as_settings, read
from django_leader.startup import autostart, starter
from django_leader.system import log, sigterm, wakeup
from tests.django import test_checks
from tests.docs.pages import page, rows, sections, shown, spans
from tests.support.sentences import PACKAGE, PLACE, VALUE, fits, missing, source

SETTINGS, CHECKS, API, SIGNALS, COMMANDS, JSON = (
    page(f"reference/{name}") for name in ("settings", "checks", "api", "signals", "commands", "json")
)


def names(table: list[list[str]]) -> list[str]:
    """What the first cells of the rows name: code, without what is in its parentheses."""
    return [name.partition("(")[0] for first, *_ in table for name in spans(first)]


def within(text: str, level: int, heading: str) -> list[list[str]]:
    return rows(sections(text, level)[heading])


# Settings


def given(**entry: Any) -> ElectionSettings:
    with override_settings(LEADER_ELECTIONS={"default": entry}):
        return read("default")


def test_every_setting_is_in_the_table_with_its_default() -> None:
    table = within(SETTINGS, 2, "All settings")
    assert tuple(names(table)) == KEYS
    for setting, (_, kind, default, unit, ids) in zip(KEYS, table, strict=True):
        described = {name: text for name, text, *_ in within(SETTINGS, 2, setting)}
        assert (described["type"].partition(", not")[0], described.get("unit", "")) == (kind, unit)
        for text in (default, described["default"]):
            assert given(**{setting: ast.literal_eval(spans(text)[0])}) == given()
        number = checks.NUMBERS[setting]
        expected = {name for name in code_ids() if name.endswith(number)}
        assert expected <= set(re.findall(r"[EW]\d{3}", ids)) == set(re.findall(r"\[([EW]\d{3})", described["checks"]))


def test_every_limit_of_a_setting_is_told() -> None:
    for setting, limit in {
        "LOCK_TTL": f"at least {config.SHORTEST_TTL}",
        "HEARTBEAT_INTERVAL": f"at least {config.SHORTEST_INTERVAL}",
        "RETRY_INTERVAL": f"at least {config.SHORTEST_INTERVAL}",
        "INSTANCE_ID": f"{LONGEST_NAME} characters",
        "HOSTNAME": f"{LONGEST_NAME} characters",
        "MIN_REPLICAS": f"0 to {config.MOST_REPLICAS}",
    }.items():
        [limits] = [text for name, text, *_ in within(SETTINGS, 2, setting) if name == "limits"]
        assert limit in limits
    assert f"({config.LONGEST_DURATION:,.0f} s)" in SETTINGS
    margin, latest = given().config.validate().timing.margin, config._latest_heartbeat(10)
    assert f"default that is\n  {margin} s" in SETTINGS
    assert f"({latest:g} s by default)" in SETTINGS


def test_every_value_of_the_variable_is_told() -> None:
    table = within(SETTINGS, 2, autostart.VARIABLE)
    assert [tuple(spans(values)) for values, _ in table[:2]] == [autostart.ON, autostart.OFF]


def test_every_key_in_redis_is_told() -> None:
    keys = given(REDIS_KEY_NAME="<lock>").config.keys
    told = names(within(SETTINGS, 2, "REDIS_KEY_NAME"))
    assert told == [keys.lock, *keys[2:], *slot_keys(keys), config.inbox(keys, "<candidate>"), order_key(keys, "<id>")]


# Checks


def code_ids() -> set[str]:
    """The ids of the checks, without what is before their dot."""
    modules = [(PACKAGE / name).read_text(encoding="utf-8") for name in ("checks.py", "job_checks.py")]
    literal = [name for text in modules for name in re.findall(r"django_leader\.([EW]\d{3})", text)]
    repaired = [FIELD for FIELD in FIELDS if FIELDS[FIELD] in config.DEFAULTS]
    errors = {f"E{number}" for number in checks.NUMBERS.values()}
    return {"E002", *literal, *errors, *(f"W{checks.NUMBERS[setting]}" for setting in repaired)}


def check_sections() -> dict[str, str]:
    return {name.removeprefix("django_leader."): text for name, text in sections(CHECKS, 3).items()}


WRONG = ["", "x", "x" * 300, "a\0", "a{b", b"x", None, -1, 0, 1e-6, 0.05, 1e9, float("inf"), True, [5], 4000]
"""Of these, each setting refuses some."""


def told_by_checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, CheckMessage]]:
    """When it is told, and the message: of each case that has a test."""
    local = [{"BACKEND": "django_redis.cache.RedisCache", "LOCATION": place} for place, _ in test_checks.LOCATIONS]
    cases: list[tuple[Any, Any]] = [({"default": {}}, {"default": entry}) for entry in local]
    cases += [(setting, test_checks.OTHER_REDIS) for _, setting, _ in test_checks.CASES]
    cases += [(setting, test_checks.OTHER_REDIS) for _, setting in test_checks.DEPLOYED]
    cases += [({"default": {name: value}}, test_checks.OTHER_REDIS) for name in KEYS for value in WRONG]
    for elections, caches in cases:
        with override_settings(LEADER_ELECTIONS=elections, CACHES=caches):
            yield from (("always", message) for message in checks.check_elections())
            yield from (("deploy", message) for message in checks.check_deployment())
    yield from (("always", message) for message in told_of_jobs(monkeypatch))
    monkeypatch.setenv(autostart.VARIABLE, "perhaps")
    yield from (("always", message) for message in checks.check_process())
    monkeypatch.setattr(checks, "unsupported", lambda: max(source("system/forks.py").returned("unsupported")))
    yield from (("always", message) for message in checks.check_process())


async def coroutine() -> None: ...


def told_of_jobs(monkeypatch: pytest.MonkeyPatch) -> list[CheckMessage]:
    """What is told of a module that raises, of two jobs of one name, and of jobs that cannot run well."""
    for name, value in {"_known": {}, "duplicates": [], "broken": {}, "_specs": {}, "_discoverer": 1}.items():
        monkeypatch.setattr(jobs, name, value)
    jobs._discovered.set()
    jobs.broken["my_app"] = ValueError("periodic: every is 0; give a number of seconds")
    periodic(every=60, name="job")(code_ids)
    periodic(every=60, name="job")(check_sections)
    periodic(every=1)(code_ids)
    periodic(every=60, name="other", election="reports")(code_ids)
    periodic(every=60, name="coroutine")(coroutine)
    monkeypatch.setattr(job_checks, "green", lambda: True)
    monkeypatch.setattr(job_checks, "find_spec", lambda name: name)
    with override_settings(LEADER_ELECTIONS={"default": {}}, CACHES=test_checks.OTHER_REDIS):
        return check_jobs()


def test_every_check_has_a_section_and_a_row() -> None:
    ids = code_ids()
    assert set(check_sections()) == ids
    table = rows(CHECKS)
    assert [re.findall(r"\[(\w+)\]", first)[0] for first, *_ in table] == sorted(ids)
    kinds = {"E": "error", "W": "warning"}
    assert [level for _, level, *_ in table] == [kinds[name[0]] for name in sorted(ids)]
    for kind, heading in (("E", "Errors"), ("W", "Warnings")):
        assert {name for name in ids if name[0] == kind} == {
            name.removeprefix("django_leader.") for name in sections(sections(CHECKS, 2)[heading], 3)
        }


def test_every_message_of_a_check_is_in_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own, or in one that it links to. The one of another setting may show the text of an error."""
    when: dict[str, set[str]] = {}
    for time, message in told_by_checks(monkeypatch):
        name = str(message.id).removeprefix("django_leader.")
        when.setdefault(name, set()).add(time)
        own = check_sections()[name]
        linked = [check_sections()[other.upper()] for other in re.findall(r"#django_leader([ew]\d{3})", own)]
        blocks = [block for text in (own, *linked) for block in shown(text)]
        allowed = [re.escape(re.sub(PLACE, VALUE, block)).replace(re.escape(VALUE), ".*") for block in blocks]
        if name.startswith("E"):
            allowed = [re.sub("|".join(FIELDS), "[A-Z_]+", text) for text in allowed]
        ends = "(?:ends in '.*'|is empty|is no such URL)"  # told in a sentence
        allowed += [text.replace("it\\ is\\ .*", f"it {ends}") for text in allowed]
        for text in filter(None, (message.msg, message.hint)):
            assert any(re.fullmatch(one, str(text)) for one in allowed), (name, text)
    told = {name.strip("[]").partition("]")[0]: set(times.split(", ")) for name, _, times, _ in rows(CHECKS)}
    assert told == when


def test_every_text_of_a_check_is_on_the_page() -> None:
    """Also of those for which there is no case."""
    own, of_jobs = source("checks.py"), source("job_checks.py")
    errors, clients = (source(name).arguments("ConfigError", 0) for name in ("protocol/config.py", "redis/reasons.py"))
    of_caches, misread = (filter(None, source("client.py").returned(name)) for name in ("problem", "_misread"))
    texts = [text for kind in ("Error", "Warning") for one in (own, of_jobs) for text in one.arguments(kind, 0)]
    texts += [text for name in ("settings.py", "conf.py") for text in source(name).arguments("ImproperlyConfigured", 0)]
    of_settings = [*map(as_settings, errors), *of_caches, *(f"CACHE is {VALUE}: {text}" for text in clients)]
    texts += [f"LEADER_ELECTIONS[{VALUE}]: {text}" for text in of_settings]
    texts.remove(f"LEADER_ELECTIONS[{VALUE}]: projects is {VALUE}; give a tuple of str")  # no setting
    texts = [text for text in texts if re.search("[a-z]", text.removeprefix("LEADER_ELECTIONS"))]
    assert len(texts) >= 40
    fixed = [*KEYS, ", ".join(KEYS), "LEADER_ELECTIONS['<alias>']", *clients, *misread]
    fixed += filter(None, source("system/forks.py").returned("unsupported"))
    fixed += filter(None, source("startup/autostart.py").returned("refusal"))
    assert missing(texts, shown(CHECKS), fixed) == []
    hints = [*own.keywords("hint"), *of_jobs.keywords("hint"), *checks.HINTS.values()]
    assert len(hints) > 12
    assert missing([hint for hint in hints if hint != VALUE], shown(CHECKS)) == []


# Names


DIRECTIVE = re.compile(r"^\.\. auto(\w+):: (?:django_leader\.)?([\w.]+)", re.MULTILINE)


def documented(text: str) -> list[str]:
    """What is shown with its docstring."""
    return [name for _, name in DIRECTIVE.findall(text)]


def test_every_public_name_is_on_the_page() -> None:
    table = [name for name in names(rows(API.partition("\n## ")[0])) if "." not in name]
    assert sorted(table) == sorted([*django_leader.__all__, "__version__"])
    headings = {name for level in (2, 3) for name in sections(API, level)}
    signal_names = {name for name, value in vars(signals).items() if isinstance(value, signals.ElectionSignal)}
    shown_elsewhere = headings | set(documented(API)) | signal_names
    assert set(django_leader.__all__) <= shown_elsewhere
    assert signal_names == set(sections(SIGNALS, 2)) & set(django_leader.__all__)


def test_every_public_name_of_a_module_is_on_the_page() -> None:
    for module in (testing, asgi, huey):
        own = {name for name, value in vars(module).items() if isinstance(value, FunctionType) and name[0] != "_"}
        own = {name for name in own if getattr(module, name).__module__ == module.__name__}
        prefix = module.__name__.removeprefix("django_leader.")
        assert {f"{prefix}.{name}" for name in own} == {name for name in documented(API) if name.startswith(prefix)}


def test_every_exception_is_in_the_table_with_its_bases() -> None:
    kinds = {name: kind for name, kind in vars(exceptions).items() if isinstance(kind, type)}
    kinds["UnknownElection"] = UnknownElection
    table = {spans(first)[0]: set(spans(bases)) for first, bases, *_ in within(API, 2, "Exceptions")}
    told = {name: bases for name, bases in table.items() if name in kinds}
    assert told == {name: {base.__name__ for base in kind.__bases__} for name, kind in kinds.items()}
    assert {name.rpartition(".")[2] for name in documented(sections(API, 2)["Exceptions"])} == set(kinds)


def members() -> dict[str, bool]:
    """The public members of an election, and whether each is for this package only."""
    parts = [kind for kind in LeaderElection.__mro__ if kind is not object]
    found = {name: inspect.getdoc(value) or "" for kind in parts for name, value in vars(kind).items()}
    for function in (LeaderElection.__init__, LeaderElection._forget, LeaderElection._know_nothing):
        body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function))).body[0]
        assert isinstance(body, ast.FunctionDef)
        for node, behind in zip(body.body, [*body.body[1:], None], strict=True):
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(target, ast.Attribute):
                text = behind.value if isinstance(behind, ast.Expr) else None
                found[target.attr] = str(text.value) if isinstance(text, ast.Constant) else ""
    return {name: text.startswith("For this package:") for name, text in found.items() if name[0] != "_"}


def test_every_member_of_an_election_is_on_the_page() -> None:
    text = sections(API, 2)["LeaderElection"]
    own = sections(text, 3)["For integrations"]
    [internal] = re.findall(r"Other modules of the package use (.*?)\.", own, re.DOTALL)
    assert spans(internal) == sorted(name for name, inner in members().items() if inner)
    [attributes] = [row[1] for row in rows(text) if row[0] == "attributes"]
    public = {name for name, inner in members().items() if not inner}
    public -= {"name", "label", "config"} & set(spans(attributes))
    table = {name.partition("(")[0] for first, *_ in within(text, 3, "Overview") for name in spans(first)}
    assert table == public
    assert {name.removeprefix("LeaderElection.") for name in documented(text)} - {"LeaderElection"} == public


def test_every_call_is_described_by_its_cost_and_its_errors() -> None:
    for heading in ("is_leader", "elections", "leader_required", "Fenced writes", "Tests", "ASGI"):
        described = {first.partition(" ")[0] for first, *cells in within(API, 2, heading) if all(cells)}
        assert {"cost", "raises"} <= described, heading
    assert all(all(row) and len(row) == 4 for row in within(sections(API, 2)["LeaderElection"], 3, "Overview"))


def test_the_signatures_on_the_page_are_those_of_the_code() -> None:
    [written] = re.findall(r"autoclass:: django_leader\.LeaderElection\((.*)\)", API)
    function = ast.parse(f"def made({written}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments, made = function.args, list(inspect.signature(LeaderElection).parameters.values())
    assert [one.arg for one in (*arguments.args, *arguments.kwonlyargs)] == [parameter.name for parameter in made]
    assert [parameter.kind == parameter.KEYWORD_ONLY for parameter in made].index(True) == len(arguments.args)
    for node, parameter in zip([*arguments.defaults, *arguments.kw_defaults], made[1:], strict=True):
        assert node
        assert ast.literal_eval(node) in (..., parameter.default)
    for first, *_ in within(sections(API, 2)["LeaderElection"], 3, "Overview"):
        for name, default in re.findall(r"(\w+)\(\w+=([\d.]+)\)", first):
            [parameter] = list(inspect.signature(getattr(LeaderElection, name)).parameters.values())[1:]
            assert parameter.default == ast.literal_eval(default)


def test_every_argument_of_the_decorator_is_in_the_table() -> None:
    arguments = [row for row in within(API, 2, "leader_required") if len(row) == 5]
    told = {
        name: ast.literal_eval(spans(default)[0])
        for name, (_, _, default, *_) in zip(names(arguments), arguments, strict=True)
    }
    parameters = list(inspect.signature(leader_required).parameters.values())[1:]
    assert told == {parameter.name: parameter.default for parameter in parameters}
    using, token = inspect.signature(testing.leading).parameters.values()
    described = dict(within(API, 2, "Tests"))
    assert ast.literal_eval(spans(described["`using`"])[-1]) == using.default
    assert ast.literal_eval(spans(described["`token`"])[-1]) == token.default


def test_every_argument_of_a_job_is_in_the_table() -> None:
    table = [row for row in within(API, 2, "periodic") if len(row) == 5]
    told = {name: ast.literal_eval(spans(row[2])[0]) for name, row in zip(names(table), table, strict=True)}
    parameters = inspect.signature(periodic).parameters.values()
    assert told == {parameter.name: parameter.default for parameter in parameters}
    [written] = re.findall(r"autofunction:: django_leader\.periodic\((.*)\)", API)
    assert str(inspect.signature(eval(f"lambda {written}: 0"))).replace("*, ", "") == (
        "(" + ", ".join(f"{name}={value!r}" for name, value in told.items()) + ")"
    )


def test_every_outcome_of_a_slot_is_in_the_table() -> None:
    table = names([row for row in within(API, 2, "periodic") if len(row) == 2 and row[0].startswith("`")])
    scripts = "".join(
        (PACKAGE / f"protocol/lua/{name}.lua").read_text(encoding="utf-8") for name in ("claim", "once", "finish")
    )
    written = re.findall(r"\bremember\([^)]*?, '([a-z-]+)'", scripts) + re.findall(r"decide\('([a-z-]+)'", scripts)
    written += re.findall(r"record\.outcome = '([a-z-]+)'", scripts) + re.findall(r"'(unreported|in-doubt)'", scripts)
    ends = ("ok", "failed", "failed-to-start")
    assert set(table) == {*written, *ends, "running", "run"}
    assert set(table) >= set(leader_jobs.BAD)
    undecided = {"rerun", "done", "waiting", "early"}
    assert set(table) >= set(get_args(Verdict)) - undecided


@pytest.mark.parametrize("record", [LeaderInfo, Event])
def test_every_field_of_a_record_is_in_its_table(record: Any) -> None:
    [first, *_] = re.findall(r"(?:^\|.*\n)+", sections(API, 3)[record.__name__], re.MULTILINE)
    assert names(rows(first)) == [field.name for field in fields(record)]


def test_every_kind_of_event_is_in_its_table() -> None:
    """The scripts write the beginnings, and the reasons of an end are kinds, too."""
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in (PACKAGE / "protocol/lua").glob("*.lua")}
    lua = "".join(
        scripts[name] for name in scripts.keys() - {"claim", "once", "finish"}
    )  # these write the runs of jobs
    written = [call for call in re.findall(r"\bremember\((.*)\)", lua) if not call.startswith("event")]
    kinds = {kind for call in written for kind in re.findall(r"'([a-z-]+)'", call)}
    losses = set(re.findall(r"\blost = '([a-z ]+)'", lua))
    reasons = {"died", *losses, *re.findall(r"\bremember\(ARGV\[13\], .* and '([a-z ]+)' or ''", lua)}
    table = [row for row in rows(sections(API, 3)["Event"]) if len(row) == 3 and " ends" not in row[0]][5:]
    assert {kind for first, *_ in table for kind in spans(first)} == (kinds - {"died"}) | set(get_args(Reason))
    told = {reason for row in table for reason in spans(row[1])} - {'""'}
    assert told == reasons
    listed = names(within(page("reference/log"), 3, "a quarantine"))
    assert set(listed) == losses


# Signals


def test_every_argument_of_a_signal_is_in_its_table() -> None:
    received: dict[str, set[str]] = {}

    class Fake:
        name, label = "default", "x"

        def listen(self, gained: Any, lost: Any, changed: Any, what: str) -> None:
            gained(1)
            lost(1, "resigned")
            changed("", "a")

    def receive(signal: Any, **named: Any) -> None:
        received[signal.name] = {"signal", *named}

    for signal in (signals.became_leader, signals.lost_leadership, signals.leader_changed):
        signal.connect(receive)
    try:
        signals.send_signals(Fake(), lambda coroutine: None)  # type: ignore[arg-type]
    finally:
        for signal in (signals.became_leader, signals.lost_leadership, signals.leader_changed):
            signal.disconnect(receive)
    common = set(names(within(SIGNALS, 2, "What all three have in common")))
    told = {name: common | {*names([row for row in within(SIGNALS, 2, name) if len(row) == 3])} for name in received}
    assert told == received
    assert names(rows(SIGNALS.partition("\n## ")[0])) == list(received)


def test_the_thread_of_each_signal_is_told() -> None:
    callbacks = source("runtime/callbacks.py")
    threads = [*callbacks.arguments("OwnThread", 1), *callbacks.arguments("Start", 1)]
    table = [
        cell for name in ("became_leader", "lost_leadership", "leader_changed") for cell in within(SIGNALS, 2, name)
    ]
    told = [spans(text)[0] for name, text, *_ in table if name == "thread"]
    assert len(told) == 3
    assert missing(set(threads), told, ["LEADER_ELECTIONS['<alias>']"]) == []


def test_every_reason_is_in_its_table() -> None:
    assert names(within(SIGNALS, 2, "Reasons")) == list(get_args(Reason))


# Commands


@pytest.mark.parametrize("module", [leader_status, leader_jobs], ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_option_of_the_command_is_on_the_page(module: Any) -> None:
    name = module.__name__.rpartition(".")[2]
    parser = module.Command().create_parser("manage.py", name)
    own = [action for action in parser._actions if not set(action.option_strings) & command_options()]
    text = sections(COMMANDS, 2)[name]
    assert shown(text)[0].split(f"{name} ")[1] == "[-h] " + " ".join(
        f"[{' '.join(filter(None, (action.option_strings[0], action.metavar)))}]"
        if action.option_strings
        else f"[{action.dest} ...]"
        for action in sorted(own, key=lambda action: not action.option_strings)
    )
    [table, *_] = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert {name.rstrip(" …").partition(" ")[0] for name in names(rows(table))} == {
        action.option_strings[0] if action.option_strings else action.dest for action in own
    }


def command_options() -> set[str]:
    """Those that every command of Django has."""
    from django.core.management.base import BaseCommand

    return {text for action in BaseCommand().create_parser("", "")._actions for text in action.option_strings}


def printed(*arguments: str) -> Any:
    """What the command prints as JSON for an election that needs no Redis."""
    out = StringIO()
    setting = {"default": {"LOCAL": "--acl" not in arguments}}
    with override_settings(LEADER_ELECTIONS=setting), suppress(SystemExit):  # its status: it is not known who leads
        call_command("leader_status", "default", "--json", *arguments, stdout=out)
    return json.loads(out.getvalue())


def test_every_column_and_exit_status_of_the_command_is_told() -> None:
    tables = [table for table in re.findall(r"(?:^\|.*\n)+", COMMANDS, re.MULTILINE) if table.startswith("| column")]
    columns = [name for name in printed()[0] if name not in leader_status.HIDDEN]
    assert [first for first, _ in rows(tables[0])] == [str(leader_status.TITLES[name]) for name in columns]
    statuses = [leader_status.LED, leader_status.LEADERLESS, leader_status.UNKNOWN]
    assert [int(first) for first, _ in within(COMMANDS, 3, "Exit statuses of leader_status")] == statuses
    assert [first for first, _ in rows(tables[1])] == [str(title) for title in leader_jobs.TITLES.values()]
    table = within(COMMANDS, 3, "Exit statuses of leader_jobs")
    assert [int(first) for first, _ in table] == [leader_jobs.ALL_WELL, leader_jobs.TROUBLE, leader_jobs.UNKNOWN]
    assert set(spans(table[1][1])) == set(leader_jobs.BAD)


def test_every_end_of_a_guarded_command_is_told() -> None:
    """The text on stderr, and the exit status."""
    table = within(COMMANDS, 3, "Exit statuses of a @leader_required command")
    own, guard = source("decorators.py"), source("runtime/guard.py")
    not_run = {text for text in own.returned("_who_leads") if text.strip(VALUE)} | {*own.yielded("_leading")}
    not_run.remove("the test says that this process does not lead")  # on the page about the API
    interrupted = {*GAVE_UP.values(), *own.arguments("GAVE_UP.get", 1), *own.returned("_why_lost")} - {VALUE}
    texts = [f"Not run: {text}" for text in not_run]
    failed = [f"CommandError: Not run: {text}" for text in (*guard.arguments("NotGuarded", 0), VALUE)]
    failed += [f"CommandError: {text}" for text in own.arguments("CommandError", 0) if "participate" in text]
    broken = [f"CommandError: Interrupted: {VALUE}: {text}" for text in interrupted]
    assert (len(texts), len(broken)) == (6, 4)
    for status, expected in ((0, texts), (UNAVAILABLE_EXIT, failed), (1, broken)):
        told = [span for _, text, ends in table if ends == str(status) for span in spans(text)]
        fixed = ["LEADER_ELECTIONS['<alias>']", "<error>"]
        assert missing(expected, told, fixed) == []
        wrong = [
            span
            for span in told
            if not any(fits(text, span, [*fixed, "LEADER_ELECTIONS['<alias>']: <why>"]) for text in expected)
        ]
        assert [span for span in wrong if "Not run" in span or "Interrupted" in span] == []


# JSON


@pytest.mark.parametrize("options", [(), ("--explain",), ("--acl",)], ids=lambda options: options[-1:])
def test_every_field_of_the_output_is_in_its_table(options: tuple[str, ...]) -> None:
    heading, level = " ".join(("leader_status", *options, "--json")), 3 if options else 2
    [table, *_] = re.findall(r"(?:^\|.*\n)+", sections(JSON, level)[heading], re.MULTILINE)
    [first, *_] = printed(*options)
    assert names(rows(table)) == list(first)
    if not options:
        [example] = re.findall(r"```json\n(\[.*?)```", sections(JSON, 2)[heading], re.DOTALL)
        assert list(json.loads(example)[0]) == list(first)


def test_every_field_of_a_job_is_in_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    told_of_jobs(monkeypatch)
    job = next(job for job in jobs.all() if job.election == "default")
    row = leader_jobs._row(job, None, 0)
    text = sections(JSON, 2)["leader_jobs --json"]
    [example] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert names(rows(text)) == list(row) == list(example[0])
    alone = leader_jobs._row(job._replace(leaderless=True), None, 0)
    nullable = {name for name in row if row[name] is None or alone[name] is None}
    assert {first.strip("`") for first, _, _, null, _ in rows(text) if null != "never"} == nullable


def test_every_outcome_and_field_of_a_run_now_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told_of_jobs(monkeypatch)
    table = within(COMMANDS, 3, "leader_jobs --run")
    statuses = {first.strip("`"): int(status) for first, _, status in table}
    assert statuses == run_now.STATUS | dict.fromkeys(set(OPEN.values()), run_now.UNKNOWN)
    job = next(job for job in jobs.all() if not job.called)
    nothing = Look(0.0, "", 0, "", 0, "", 0.0, "")
    row = run_now.as_dict(job, Carried(Order("id", job.spec.job.name, "anna"), "unknown", nothing))
    text = sections(JSON, 2)["leader_jobs --run --json"]
    [example] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert names(rows(text)) == list(row) == list(example)
    nullable = {name for name, value in row.items() if value is None}
    assert {first.strip("`") for first, _, _, null, _ in rows(text) if null != "never"} == nullable


def test_every_value_of_the_output_is_told() -> None:
    states = [text for text in source("report.py").made("Text") if text in JSON]
    assert set(spans(re.findall(r"^- `this_process` is .*?\.", JSON, re.MULTILINE)[0])) == {"this_process", *states}
    assert len(states) == len(source("report.py").returned("this_process")) == 4
    starts = sections(JSON, 3)["leader_status --explain --json"]
    assert set(leader_status.STARTS) | {"on", "off"} <= set(spans(starts))


def test_every_field_of_the_info_is_in_its_table() -> None:
    text = sections(JSON, 2)["Info key"]
    [example] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert set(names(rows(text))) == set(example) == set(LeaderInfo("a").as_dict())


# Numbers


NUMBERS = [
    ("settings", f"A process that still runs {sigterm.STAYS:.0f} s after the signal"),
    ("settings", f"after {sigterm.DRAINS:.0f} s; under"),
    ("settings", f"it is sent again within {wakeup.PAUSE * 1000:.0f} ms"),
    ("settings", f"With more than {pace.FULL_RATE_CANDIDATES} candidates"),
    ("settings", f"above {checks.LONG_TTL:.0f}"),
    ("log", f"{sigterm.STAYS:.0f} s later, or {sigterm.DRAINS:.0f} s later"),
    ("log", f"A value has at most {log.LONGEST:,} characters."),
    ("log", f"at most once in {diagnostics.PAUSE:.0f} s"),
    ("log", f"after {starter.RETRY} s, then after twice as long each time, up to {starter.LONGEST_RETRY:.0f} s"),
    ("api", f"`history()` returns at most {requests.MOST_EVENTS:,} events"),
    ("api", f"up to 32 `RETRY_INTERVAL`s: {32 * Config().retry_interval:.0f} s"),
    ("checks", f"longer than {checks.LONG_TTL:.0f} s"),
    ("api", f"half of the period, at most {LONGEST_GRACE:.0f}"),
    ("api", f"from {SHORTEST_PERIOD:.0f} second to {config.LONGEST_DURATION / 86400:.0f} days"),
    ("commands", f"It shows at most {admin.MOST_SHOWN} elections."),
]


@pytest.mark.parametrize(("name", "text"), NUMBERS)
def test_a_number_is_that_of_the_code(name: str, text: str) -> None:
    assert text in " ".join(page(f"reference/{name}").split())


def test_the_command_for_an_acl_is_that_of_the_code() -> None:
    [line] = [line for line in COMMANDS.splitlines() if line.startswith("ACL SETUSER")]
    assert re.findall(r"\+(\w+)", line) == [*acl.COMMANDS.split(), "select"]
    assert line.startswith(f"ACL SETUSER {acl.USER} ~")

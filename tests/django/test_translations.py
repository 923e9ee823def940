"""What users read in the admin and of ``leader_status`` is translated; what programs and logs get is English."""

from __future__ import annotations

import ast
import gettext
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import Permission
from django.core.exceptions import ImproperlyConfigured
from django.template import Engine
from django.test import Client, override_settings
from django.utils import translation
from pytest_django import Settings

from django_leader import LeaderElection, admin, elections
from django_leader.models import Election
from django_leader.report import Report, translated
from django_leader.settings import read
from django_leader.startup.autostart import Decision, Seen, decide
from django_leader.startup.starter import starter
from tests.django.conftest import FAST
from tests.django.test_admin import text
from tests.django.test_admin import viewer as viewer
from tests.django.test_leader_status import status
from tests.support import messages
from tests.support.messages import CONTEXT, Message
from tests.support.servers import GENEROUS, RedisServer, eventually

CATALOGS = pytest.mark.parametrize("path", messages.catalogs(), ids=lambda path: path.parts[-3])
PLACEHOLDER = re.compile(r"%\(\w+\)\w|</?\w+>")


@CATALOGS
def test_every_message_is_translated_and_nothing_else(path: Path) -> None:
    catalog = messages.parse(path.read_text(encoding="utf-8"))
    [header] = catalog.pop(Message(""))
    assert set(catalog) == messages.used()
    [forms] = re.findall(r"nplurals=(\d)", header)
    for message, texts in catalog.items():
        assert len(texts) == (int(forms) if message.plural else 1)
        for one in texts:
            assert one.strip()
            assert sorted(PLACEHOLDER.findall(one)) == sorted(PLACEHOLDER.findall(message.singular))


@CATALOGS
def test_no_translation_is_a_guess_or_left_over(path: Path) -> None:
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert not [line for line in comments if "fuzzy" in line or line.startswith("#~")]


@CATALOGS
def test_the_compiled_catalog_is_the_one_that_is_read(path: Path) -> None:
    catalog = messages.parse(path.read_text(encoding="utf-8"))
    file = path.with_suffix(".mo")
    assert file.read_bytes() == messages.compiled(catalog), "run 'make messages'"
    with file.open("rb") as opened:
        found = gettext.GNUTranslations(opened)
    for (singular, plural), texts in catalog.items():
        if plural:
            assert {found.npgettext(CONTEXT, singular, plural, number) for number in range(9)} == set(texts)
        elif singular:
            assert [found.pgettext(CONTEXT, singular)] == texts


def test_no_word_of_a_template_is_left_out() -> None:
    assert [messages.untranslatable(template) for template in messages.templates()] == [[]]
    forgotten = '{% if a %}<p class="{{ a }} b" id="c">Lease{{ a }}</p>{% endif %}<br><i>{{ a }}</i> over'
    assert messages.untranslatable(Engine().from_string(forgotten)) == ["Lease", "over"]


@pytest.mark.parametrize(
    "source", ["gettext('a')", "pgettext('other', 'a')", "Text(a)", "pgettext_lazy('leader election', f'{a}')"]
)
def test_a_message_that_translators_would_not_see_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        list(messages.in_python(ast.parse(source)))


def test_messages_are_found_in_every_form() -> None:
    source = "Text('a' 'b', c=d)\npgettext('leader election', 'c')\nnpgettext('leader election', 'd', 'e', 2)"
    assert list(messages.in_python(ast.parse(source))) == [Message("ab"), Message("c"), Message("d", "e")]
    engine = Engine(libraries={"i18n": "django.templatetags.i18n"})
    with pytest.raises(ValueError, match="no context"):
        list(messages.in_template(engine.from_string("{% load i18n %}{% translate 'a' %}")))


@pytest.mark.parametrize("twice", ['msgid "a"\nmsgstr "b"', f'msgctxt "{CONTEXT}"\nmsgid "a"\nmsgstr "b"\n\n' * 2])
def test_a_catalog_has_each_message_once_in_its_context(twice: str) -> None:
    with pytest.raises(ValueError, match="'a'"):
        messages.parse(twice)


@pytest.fixture
def reader(viewer: Client, project: Settings) -> Iterator[Client]:
    """A user whose browser asks for German pages."""
    project.MIDDLEWARE = [*django_settings.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
    viewer.defaults["HTTP_ACCEPT_LANGUAGE"] = "de"
    with translation.override("en", deactivate=True):  # the middleware leaves German to the thread
        yield viewer


@pytest.mark.django_db
def test_the_admin_shows_a_leader_in_german(reader: Client) -> None:
    election = elections["default"]
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    shown = text(reader)
    assert "Leader-Wahlen" in shown
    assert f"{election.instance_id} (dieser Prozess) ist Leader" in shown
    assert re.search(r"Leader seit \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC Dauer: 0\sMinuten", shown)
    assert re.search(r"Lease gilt noch \d,\d \d,\d s von 9 s", shown)
    assert f"Dieser Prozess {election.instance_id} ist Leader startet nie: Dies ist ein Testlauf" in shown
    index = text(reader, "/admin/")
    assert "Leader-Wahl" in index
    assert "Wahlen" in index
    reader.defaults["HTTP_ACCEPT_LANGUAGE"] = "en"
    assert f"{election.instance_id} leads — this process" in text(reader)


@pytest.mark.django_db
def test_the_admin_says_in_german_why_there_is_no_leader(
    reader: Client, project: Settings, some_server: RedisServer
) -> None:
    assert "Kein Leader. Kein Prozess kandidiert." in text(reader)
    project.LEADER_ELECTIONS = {"default": {**FAST, "QUARANTINE": 60}}
    elections["default"].start()
    eventually(lambda: elections["default"].status().quarantined)
    said = r"hat Daten verloren; bis zu \d\d,\d s lang wird kein Leader gewählt \(QUARANTINE\)\."
    assert re.search(said, text(reader))
    project.LEADER_ELECTIONS = {"default": {"LOCAL": True}}
    assert "LOCAL ist True: Jeder Kandidat ist für sich allein Leader" in text(reader)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("language", "number", "said"),
    [
        ("de", 1, "und 1 weitere Wahl: manage.py leader_status zeigt sie"),
        ("de", 2, "und 2 weitere Wahlen: manage.py leader_status zeigt sie"),
        ("en", 1, "and 1 more: manage.py leader_status shows it"),
        ("en", 2, "and 2 more: manage.py leader_status shows them"),
    ],
)
def test_the_admin_counts_the_other_elections(
    reader: Client, project: Settings, monkeypatch: pytest.MonkeyPatch, language: str, number: int, said: str
) -> None:
    monkeypatch.setattr(admin, "MOST_SHOWN", 1)
    project.LEADER_ELECTIONS = {"default": FAST, **{f"other-{index}": FAST for index in range(number)}}
    reader.defaults["HTTP_ACCEPT_LANGUAGE"] = language
    assert said in text(reader)


@pytest.mark.django_db
def test_it_works_without_translations(reader: Client, project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = type(translation._trans)()  # type: ignore[attr-defined]
    monkeypatch.setattr(translation, "_trans", asks)  # the old one has kept what USE_I18N was
    project.USE_I18N, project.LANGUAGE_CODE = False, "de"
    assert "No leader. No process is a candidate." in text(reader)
    assert status()[1].startswith("ELECTION")


@pytest.mark.parametrize("start", ["now", "in each worker", "at the first request", "never"])
def test_the_admin_says_when_an_election_starts(project: Settings, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    decision = Decision(start, "100%")  # type: ignore[arg-type]
    monkeypatch.setattr(starter, "decisions", {"default": decision})
    described = admin._describe(Report("default", problem=ImproperlyConfigured("x")))
    assert described["decision"] == f"starts {start}: 100%"
    with translation.override("de"):
        assert admin._describe(Report("default", problem=ImproperlyConfigured("x")))["decision"].startswith("startet ")


def test_the_command_speaks_the_language_of_the_project(project: Settings) -> None:
    project.LANGUAGE_CODE = "de"
    code, out, err = status()
    assert (code, err) == (1, "")
    titles, line = out.splitlines()
    assert titles.split("  ")[0] == "WAHL"
    assert line[titles.index("DIESER PROZESS") :] == "nimmt nicht teil"
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)
    code, out, _ = status()
    titles, line = out.splitlines()
    assert (code, line[titles.index("DIESER PROZESS") :]) == (0, "ist Leader")
    assert re.fullmatch(r"\d(,\d+)? s\s*", line[titles.index("LEASE NOCH") : titles.index("TOKEN")])


def test_the_command_explains_in_the_language_of_the_project(project: Settings) -> None:
    project.LANGUAGE_CODE = "de"
    rows = [re.split(r"\s{2,}", line) for line in status("--explain")[1].splitlines()]
    assert ["default", "Testlauf", "nie", "Dies ist ein Testlauf"] in rows
    assert ["default", "anderer manage.py-Befehl", "nie", "Dies ist der Management-Befehl 'migrate'"] in rows
    assert {row[2] for row in rows[1:-1]} == {"sofort", "nie", "in jedem Worker", "bei der ersten Anfrage"}


def test_the_command_reports_a_quarantine_in_german(project: Settings) -> None:
    project.LEADER_ELECTIONS = {"default": {**FAST, "QUARANTINE": 60}}
    project.LANGUAGE_CODE = "de"
    elections["default"].start()
    eventually(lambda: elections["default"].status().quarantined)
    said = r"default: Redis ist neu oder hat Daten verloren; bis zu [\d,]+ s lang wird kein Leader gewählt \(QUA"
    assert re.match(said, status()[2])


def test_warnings_are_german_for_users_and_english_for_programs(project: Settings, some_server: RedisServer) -> None:
    with override_settings(SECRET_KEY="that of another project"):
        leader = LeaderElection(some_server.client(), read("default").config)
    leader.start()
    assert leader.wait_for_leadership(GENEROUS)
    project.LANGUAGE_CODE = "de"
    code, _, err = status()
    assert code == 0
    assert err.startswith("default: An dieser Wahl nimmt ein anderes Projekt teil (sein Fingerabdruck ist '")
    [row] = json.loads(status("--json")[1])
    assert row["error"].startswith("default: another project participates in this election (fingerprint '")
    leader.stop()


@pytest.mark.parametrize("arguments", [["--json"], ["--json", "--explain"], ["--json", "--acl"], ["--acl"]])
def test_what_programs_read_is_the_same_in_every_language(project: Settings, arguments: list[str]) -> None:
    english = status(*arguments)
    project.LANGUAGE_CODE = "de"
    assert status(*arguments) == english
    with translation.override("de"):
        assert status(*arguments) == english
        assert translation.get_language() == "de"


def test_the_log_and_the_rules_of_the_start_stay_english() -> None:
    with translation.override("de"):
        why = decide(Seen(command="migrate"), "auto").why
        assert why == "this is the management command 'migrate'"
        assert translated(why) == "Dies ist der Management-Befehl 'migrate'"
        assert translated("connection refused") == "connection refused"


@pytest.mark.django_db
def test_the_database_keeps_the_english_name_of_the_model() -> None:
    with translation.override("de"):
        assert str(Election._meta.verbose_name_plural) == "Wahlen"
        assert Election._meta.verbose_name_raw == "election"
    assert Permission.objects.get(codename="view_election").name == "Can view election"

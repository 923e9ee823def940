"""The how-to pages do what they say: their files, as printed, in a project of their own."""

from __future__ import annotations

import configparser
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import block, blocks
from tests.docs.site import Site
from tests.support.servers import GENEROUS, RedisServer

Make = Callable[..., Site]


@pytest.fixture
def make(tmp_path: Path, some_server: RedisServer) -> Make:
    return lambda *pages: Site(tmp_path, some_server, *pages)


def test_cron_runs_the_command_on_one_host(make: Make) -> None:
    site = make("howto/cron")
    site.manage("migrate")
    assert site.manage("nightly") == ("", "")
    out, err = site.manage("nightly")
    printed = block("howto/cron", "Not run:", "console").splitlines()[-1]
    assert (out, re.sub(r"\d+\.\d", "27.4", err)) == ("", f"{printed}\n")
    assert site.manage("nightly", "--verbosity", "0") == ("", "")


def test_a_long_running_command_ends_by_sigterm(make: Make) -> None:
    site = make("howto/command-long-running")
    site.manage("migrate")
    out, _ = site.manage("token")
    assert re.fullmatch(r"this term has the token \d{16}\n", out)
    process = site.start("manage.py", "poll")
    try:
        site.script("""
import time
from django_leader import elections
while not elections["command:poll"].get_leader_id():
    time.sleep(0.01)
""")
        process.send_signal(signal.SIGTERM)
        assert process.wait(GENEROUS) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


def test_a_long_running_command_survives_a_lost_connection_to_the_database(make: Make) -> None:
    site = make("howto/command-long-running")
    site.manage("migrate")
    said = site.script("""
from io import StringIO
from types import SimpleNamespace
from django.core.management import call_command
from django.db import connection
from django_leader.testing import leading
from my_app.management.commands import poll

class Over(BaseException):
    pass

rounds, err = [], StringIO()

def sleep(seconds):
    rounds.append(err.getvalue())
    if len(rounds) == 2:
        raise Over
    connection.connection.close()  # behind Django's back, as a server does that ends

poll.time = SimpleNamespace(sleep=sleep)
try:
    with leading("command:poll"):
        call_command("poll", stderr=err)
except Over:
    print(rounds)
""")
    assert said == "['', '']\n"


def test_apscheduler_runs_the_job_in_each_term(make: Make) -> None:
    site = make("howto/apscheduler")
    text = block("howto/apscheduler", "BackgroundScheduler()")
    site.write("my_app/scheduling.py", text.replace("minutes=5", "seconds=0.05"))
    said = site.script("""
import threading
from django.core import management
from django_leader import elections
from my_app import scheduling
ran = threading.Event()
scheduling.call_command = lambda name: (print(name, elections["default"].is_leader()), ran.set())
for term in (1, 2):
    ran.clear()
    elections["default"].start()
    assert ran.wait(40), f"no job runs in term {term}"
    elections["default"].stop()
    print("term", term)
""")
    lines = said.splitlines()
    second = lines[lines.index("term 1") + 1 :]
    assert (lines[0], second[0], second[-1]) == ("clearsessions True", "clearsessions True", "term 2")


def test_the_tests_of_a_project_pass(make: Make) -> None:
    site = make("howto/cron", "howto/command-long-running", "howto/testing")
    assert "Ran 10 tests" in site.manage("test", "my_app")[1]
    site.write(
        "my_app/test_fixture.py", "from django_leader import is_leader\n\n\ndef test(leader):\n    assert is_leader()\n"
    )
    assert "1 passed" in site.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "my_app/test_fixture.py")[0]
    assert "no issues" in site.manage("check", "--settings=mysite.test_settings")[0]


def test_each_way_of_fencing_refuses_a_late_write(make: Make) -> None:
    site = make("howto/fencing")
    site.manage("makemigrations", "my_app")
    site.manage("migrate")
    said = site.script("""
import logging, sys
from django_leader.testing import leading
from django_leader import StaleToken, fenced_update
from my_app import billing, instances, leading as work, report_sql, reports
from my_app.models import Billing, Invoice, Report
logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stdout)

def update(name, text, token):
    Report.objects.get_or_create(name=name)
    return bool(fenced_update(Report.objects.filter(name=name), token=token, text=text))

def save(name, text, token):
    return instances.append(Report.objects.get_or_create(name=name)[0], text, token)

def invoice(name, text, token):
    try:
        billing.write_invoices([text], token)
    except StaleToken:
        return False
    return True

for number, write in enumerate((update, report_sql.write, save, invoice)):
    print([write(f"by {number}", str(token), token) for token in (7, 7, 6, 8, 7)])
print(sorted(Report.objects.values_list("name", "text", "fencing_token")))
print(*Invoice.objects.values_list("customer"), *Billing.objects.values_list("fencing_token"))
for token in (5, 4):
    with leading(token=token):
        reports.write_report()
with work.working(6):
    print(update("nightly", "late", 5), Report.objects.get(name="nightly").text)
""")
    assert said.splitlines() == [
        *["[True, True, False, True, False]"] * 4,
        "[('by 0', '8', 8), ('by 1', '8', 8), ('by 2', '778', 8)]",
        "('8',) (8,)",
        "not written: a later leader has been here",
        "False all is well",
    ]
    session = block("howto/fencing", ">>> ", "pycon")
    done = site.script(f"""
import doctest
page = doctest.DocTestParser().get_doctest({session!r}, {{}}, "page", None, 0)
print(doctest.DocTestRunner().run(page))
""")
    assert "failed=0, attempted=6" in done, done


def test_a_late_write_to_redis_is_refused(make: Make) -> None:
    said = make("howto/fencing").script("""
import logging, sys
from django.core.cache import caches
from django_leader import elections
from django_leader.runtime.grant import Grant, new_cell
from django_leader.system import clock
from my_app import counting, rates
logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stdout)
election = elections["default"]
rates.refresh()
election.start()
election.wait_for_leadership(40)
rates.refresh()
print(caches["default"].get("rates"), counting.count("a"), counting.count("a"))
token = election.fencing_token
election.stop()
election.start()
election.wait_for_leadership(40)
rates.refresh()
election._publish(Grant(token, new_cell(clock.now() + 1000)))  # as a process that was paused
rates.refresh()
election.stop()
""")
    first, second, third = said.splitlines()
    assert first.startswith("not refreshed: LEADER_ELECTIONS['default']: this process (")
    assert second == "{'EUR': 1.08} 1 2"
    assert third.startswith("not refreshed: LEADER_ELECTIONS['default']: a write of the term with token")


def test_the_probe_fails_where_the_threads_of_the_election_do_not_run(make: Make) -> None:
    said = make("howto/docker-kubernetes").script("""
from django.test import Client
from django_leader import elections
from my_app import views
client = Client(SERVER_NAME="localhost")
print(client.get("/live").status_code)
elections["default"].start()
elections["default"].wait_for_leadership(40)
print(client.get("/live").status_code)
views.STUCK = -1.0
print(client.get("/live").status_code)
elections["default"].stop()
""")
    assert said.split() == ["200", "200", "503"]


@pytest.mark.parametrize("found", blocks(language="yaml"), ids=lambda found: f"{found.page}:{found.line}")
def test_a_deployment_is_one(found: Any) -> None:
    deployment = yaml.safe_load(found.text)
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    template = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    for container in template["spec"]["containers"]:
        assert {"name", "image"} <= set(container)
        if probe := container.get("livenessProbe"):
            path = probe["httpGet"]["path"].lstrip("/")
            assert f'path("{path}", ' in block(found.page, "urlpatterns")
            assert probe["httpGet"]["port"] in [port["containerPort"] for port in container["ports"]]


def test_the_dockerfile_starts_the_server_without_a_shell() -> None:
    [found] = blocks(language="dockerfile")
    lines = [line.split(" ", 1) for line in found.text.splitlines()]
    assert {name for name, _ in lines} <= {"FROM", "WORKDIR", "COPY", "RUN", "STOPSIGNAL", "CMD"}
    assert json.loads(dict(lines)["CMD"])[0] == "gunicorn"


def test_the_settings_for_sentinel_pass_the_checks(make: Make) -> None:
    site = make("howto/sentinel")
    assert "no issues" in site.manage("check")[0]
    assert site.script("from django_leader import elections; print(elections['default'].config.min_replicas)") == "1\n"


def test_the_application_that_hands_over_loads(make: Make) -> None:
    assert "function" in make("howto/servers").script("from mysite.asgi import application; print(application)")


def test_the_configuration_of_uwsgi_can_be_read() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(block("howto/servers", "[uwsgi]", "ini"))
    assert parser["uwsgi"]["enable-threads"] == "true"


def test_the_smallest_user_is_the_one_that_is_printed(make: Make) -> None:
    printed = block("howto/acl", "ACL SETUSER", "console").partition("\n")[2]
    out, _ = make().manage("leader_status", "--acl")
    assert out == printed


def test_json_is_what_leader_status_prints(make: Make) -> None:
    [said] = json.loads(make().manage("leader_status", "--json", status=1)[0])
    for page in ("reference/json", "howto/alerts"):
        language = "json" if page.startswith("reference") else "console"
        text = block(page, '"this_process"', language)
        assert set(json.loads(text[text.index("[\n") :])[0]) == set(said), page

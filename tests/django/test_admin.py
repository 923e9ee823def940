"""The admin page: who may see it, and what it shows in each situation."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.staticfiles import finders
from django.test import Client, override_settings
from pytest_django import Settings

from django_leader import LeaderElection, elections
from django_leader.settings import read
from tests.django.conftest import FAST, caches
from tests.support.servers import GENEROUS, RedisServer, eventually

pytestmark = pytest.mark.django_db
PAGE = "/admin/django_leader/election/"


@pytest.fixture
def viewer(client: Client) -> Client:
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_election"))
    client.force_login(user)
    return client


def text(client: Client, page: str = PAGE) -> str:
    response = client.get(page)
    assert response.status_code == 200
    body: str = response.content.decode()
    assert "<script>" not in body
    assert not re.search(r"\sstyle=|\son\w+=|https?://(?!www\.w3\.org)", body.split("</head>")[1])
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def test_it_is_linked_from_the_index_for_those_who_may_view_it(viewer: Client, project: Settings) -> None:
    assert PAGE in viewer.get("/admin/").content.decode()


def test_others_see_neither_the_link_nor_the_page(client: Client, project: Settings) -> None:
    client.force_login(User.objects.create_user("clerk", is_staff=True))
    assert PAGE not in client.get("/admin/").content.decode()
    assert client.get(PAGE).status_code == 403
    client.logout()
    assert client.get(PAGE).status_code == 302


def test_the_only_permission_is_to_view() -> None:
    assert [p.codename for p in Permission.objects.filter(content_type__app_label="django_leader")] == ["view_election"]


@pytest.mark.parametrize("page", ["add/", "1/change/", "1/delete/", "1/history/"])
def test_there_is_nothing_to_add_change_or_delete(viewer: Client, project: Settings, page: str) -> None:
    assert viewer.get(PAGE + page).status_code in (302, 403, 404)


def test_it_shows_who_leads(viewer: Client, project: Settings) -> None:
    election = elections["default"]
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    shown = text(viewer)
    assert f"{election.instance_id} leads — this process" in shown
    assert election.config.hostname in shown
    assert str(election.fencing_token) in shown
    assert "s of 9 s" in shown
    assert "Candidates 1" in shown


def test_it_shows_that_nobody_leads(viewer: Client, project: Settings) -> None:
    shown = text(viewer)
    assert "No leader. No process is a candidate." in shown
    assert "is not participating" in shown
    assert "starts never: this is a test run" in shown


def test_it_shows_a_quarantine(viewer: Client, project: Settings) -> None:
    project.LEADER_ELECTIONS = {"default": {**FAST, "QUARANTINE": 60}}
    elections["default"].start()
    eventually(lambda: elections["default"].status().quarantined)
    assert "Redis is new or has lost data; no leader is elected for up to" in text(viewer)


def test_it_shows_each_election(viewer: Client, project: Settings) -> None:
    project.LEADER_ELECTIONS = {"default": FAST, "reports & more": FAST}
    shown = text(viewer)
    assert "reports &amp; more" in shown


def test_it_shows_what_is_wrong_instead_of_failing(viewer: Client, project: Settings, own_server: RedisServer) -> None:
    project.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": own_server.url}}
    own_server.stop()
    shown = text(viewer)
    assert "refused" in shown
    assert f"This process {elections['default'].instance_id} is not participating" in shown
    project.LEADER_ELECTIONS = {"default": {"LOCK_TTL": "10"}}
    assert "LOCK_TTL is" in text(viewer)
    project.LEADER_ELECTIONS = []
    assert "must be a dict of dicts" in text(viewer)


def test_it_shows_a_leader_of_another_project(viewer: Client, project: Settings, some_server: RedisServer) -> None:
    with override_settings(SECRET_KEY="that of another project"):
        leader = LeaderElection(some_server.client(), read("default").config)
    leader.start()
    assert leader.wait_for_leadership(GENEROUS)
    shown = text(viewer)
    assert "Another project participates in this election" in shown
    assert f"{leader.instance_id} leads" in shown
    leader.stop()


def test_it_says_that_an_election_is_local(viewer: Client, project: Settings) -> None:
    project.LEADER_ELECTIONS = {"default": {"LOCAL": True}}
    assert "LOCAL is True" in text(viewer)
    assert "No process is a candidate." in text(viewer)
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)
    assert "leads — this process" in text(viewer)


def test_what_a_leader_calls_itself_is_escaped(viewer: Client, project: Settings, some_server: RedisServer) -> None:
    some_server.client().set("maplefile:leader:lock", "<script>alert(1)</script>", px=60_000)
    response = viewer.get(PAGE).content.decode()
    assert "&lt;script&gt;alert(1)" in response
    assert "<script>alert" not in response


def test_a_custom_admin_site_keeps_its_links(viewer: Client, project: Settings) -> None:
    response: Any = viewer.get("/other/django_leader/election/")
    assert response.status_code == 200
    assert 'href="/other/"' in response.content.decode()
    assert 'href="/admin/"' not in response.content.decode()


def test_what_redis_says_does_not_break_the_page(viewer: Client, project: Settings, some_server: RedisServer) -> None:
    redis = some_server.client()
    redis.hset("{maplefile:leader:lock}:state", "token", "9" * 5000)
    redis.set("maplefile:leader:lock", "a\u202eb", px=60_000)
    redis.set("maplefile:leader:info", '{"instance_id": "a\u202eb", "pid": %s}' % ("9" * 5000), px=60_000)
    assert "ab leads" in text(viewer)
    redis.set("maplefile:leader:lock", "x" * 2**20, px=60_000)
    assert "(1048576 bytes) leads" in text(viewer)


def test_a_frozen_redis_holds_the_page_up_once(viewer: Client, project: Settings, own_server: RedisServer) -> None:
    project.CACHES = caches(own_server.url)
    project.LEADER_ELECTIONS = dict.fromkeys(["default", *(f"election-{number}" for number in range(99))], FAST)
    own_server.freeze()
    began = time.monotonic()
    shown = text(viewer)
    # An operation takes 2 s at the most, so one after the other they take 200 s.
    assert time.monotonic() - began < 20
    own_server.thaw()
    assert "election-48" in shown
    assert "election-49" not in shown, "the page has an end"
    assert "and 50 more" in shown


def test_a_candidate_follows_only_a_leader(viewer: Client, project: Settings, own_server: RedisServer) -> None:
    project.CACHES = caches(own_server.url)
    election = elections["default"]
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    own_server.stop()
    eventually(lambda: not election.is_leader() and election.outage)
    shown = text(viewer)
    assert "is a candidate" in shown
    assert "follows" not in shown


def test_no_style_depends_on_a_variable_that_a_theme_may_not_define() -> None:
    path = finders.find("django_leader/elections.css")
    assert isinstance(path, str)
    assert re.findall(r"var\(--[\w-]+\)", Path(path).read_text(encoding="utf-8")) == []

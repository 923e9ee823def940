"""The admin page in a real Chromium: nothing refused by a strict policy, and readable in light and in dark."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from django_leader import LeaderElection, elections
from django_leader.startup.autostart import Seen, decide
from django_leader.startup.starter import starter
from tests.conftest import need
from tests.django.conftest import FAST
from tests.support.servers import GENEROUS, RedisServer, eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None  # type: ignore[assignment]
    need(sync_playwright, "playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    need(path, "chromium")
    # The browser's driver runs an event loop in this thread, of which Django would warn.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


def luminance(colour: str) -> float:
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


CONTRASTS = """() => {
  const texts = '.leader-elections dt, .leader-elections dd, .leader-elections h2, .leader-headline';
  return [...document.querySelectorAll(texts)].map(element => {
    let back = element;
    while (back && getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)') back = back.parentElement;
    const style = getComputedStyle(back || document.documentElement);
    return [element.textContent.trim().slice(0, 20), getComputedStyle(element).color, style.backgroundColor];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 380])
def test_the_page(browser: Any, live_server: LiveServer, project: Settings, scheme: str, width: int) -> None:
    User.objects.create_superuser("admin")
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{live_server.url}/log-in/admin/")
    assert elections["default"].instance_id in page.inner_text(".leader-headline")
    assert problems == [], "nothing inline, nothing from elsewhere"
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 10
    for text, front, back in contrasts:
        low, high = sorted([luminance(front), luminance(back)])
        assert (high + 0.05) / (low + 0.05) >= 3, (scheme, text, front, back)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is cut off"
    page.goto(f"{live_server.url}/admin/")
    assert page.locator("a", has_text="Elections").count() >= 1
    page.close()


MARKS = """() => {
  // As under a theme that brings styles of its own: none of Django's, and none of its variables.
  for (const sheet of [...document.querySelectorAll('link[rel=stylesheet], style')])
    if (!(sheet.href || '').includes('django_leader')) sheet.remove();
  const style = (selector) => getComputedStyle(document.querySelector(selector));
  const lines = (found) => [found.borderTopStyle, found.borderTopWidth, found.borderTopColor];
  return {
    off: lines(style('.leader-off')), on: lines(style('.leader-on')), inside: style('.leader-on').backgroundColor,
    error: lines(style('.errornote')), behind: style('.errornote').backgroundColor,
    text: getComputedStyle(document.body).color,
  };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_without_the_styles_of_django(
    browser: Any, live_server: LiveServer, project: Settings, scheme: str
) -> None:
    project.LEADER_ELECTIONS = {"default": FAST, "leaderless": FAST, "wrong": {"LOCK_TTL": "10"}}
    User.objects.create_superuser("admin")
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)
    page = browser.new_page(color_scheme=scheme)
    page.goto(f"{live_server.url}/log-in/admin/")
    seen = page.evaluate(MARKS)
    page.close()
    assert seen["off"] == ["solid", "2px", seen["text"]]
    assert seen["on"][:2] == ["solid", "2px"]
    assert seen["inside"] not in ("rgba(0, 0, 0, 0)", seen["text"])
    assert seen["error"][:2] == ["solid", "1px"]
    assert seen["error"][2] != seen["text"]
    assert seen["behind"] != "rgba(0, 0, 0, 0)"


def test_a_picture_of_the_page(
    browser: Any,
    live_server: LiveServer,
    project: Settings,
    some_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One process leads and four are candidates. ``PICTURE=docs/images/admin.png`` writes the manual's picture."""
    project.LEADER_ELECTIONS = {"default": {"QUARANTINE": 0, "INSTANCE_ID": "web-1", "HOSTNAME": "web-1.example.com"}}
    monkeypatch.setattr(starter, "decisions", {"default": decide(Seen(entry_point=True), "auto")})
    User.objects.create_superuser("admin")
    here = elections["default"].config
    others = [
        LeaderElection(
            redis.Redis(port=some_server.port), replace(here, instance_id=name, hostname=f"{name}.example.com")
        )
        for name in ("web-2", "web-3", "web-4")
    ]
    page = browser.new_page(color_scheme="light", viewport={"width": 1000, "height": 530})
    try:
        others[0].start()
        assert others[0].wait_for_leadership(GENEROUS)
        for election in (elections["default"], *others[1:]):
            election.start()
        eventually(lambda: others[0].status().candidates == 4)
        page.goto(f"{live_server.url}/log-in/admin/")
        shown = page.inner_text(".leader-elections")
        if picture := os.environ.get("PICTURE"):
            page.screenshot(path=picture)
    finally:
        page.close()
        for election in others:
            election.stop()
    assert "web-2 leads" in shown
    assert "this process" not in shown
    assert [line for line in shown.splitlines() if "web-1" in line], "this process, which follows"
    assert "4" in shown.splitlines()

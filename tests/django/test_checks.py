"""Every system check, by its id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.test import override_settings

from django_leader import checks, client
from django_leader.settings import KEYS
from tests.django.conftest import CLUSTER_CACHE
from tests.docs.pages import block

OTHER_REDIS = {
    "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1"},
    "leader": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/1"},
    "leader again": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": "redis://:password@127.0.0.1:1/?db=1",
        "KEY_PREFIX": "again",
    },
    "default again": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"},
    "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "bad": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "localhost:6379"},
    "cluster": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": "redis://127.0.0.1:1",
        "OPTIONS": {"REDIS_CLIENT_CLASS": "redis.cluster.RedisCluster"},
    },
    "own cluster": CLUSTER_CACHE,
    "broken": {"BACKEND": "no.such.Backend"},
    "shards": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": ["redis://127.0.0.1:1", "redis://127.0.0.1:2"],
        "OPTIONS": {"CLIENT_CLASS": "django_redis.client.ShardClient"},
    },
}

CASES: list[tuple[str, Any, str]] = [
    ("E001", [], "must be a dict of dicts"),
    ("E002", {"default": {"TTL": 10}}, "unknown key 'TTL'"),
    ("W003", {"default": {"CACHE": "nowhere"}}, "not in CACHES"),
    ("W003", {"default": {"CACHE": "local"}}, "an election needs 'django_redis.cache.RedisCache' or"),
    ("W003", {"default": {"CACHE": "broken"}}, "'no.such.Backend'"),
    ("W003", {"default": {"CACHE": "shards"}}, "shards over several servers"),
    ("E003", {"default": {"CACHE": None}}, "give the name of an entry of CACHES"),
    ("E004", {"default": {"REDIS_KEY_NAME": b"lock"}}, "give a str"),
    ("E004", {"default": {"REDIS_KEY_NAME": "a{b"}}, "braces mark a Redis Cluster hash tag"),
    ("E005", {"default": {"REDIS_KEY_NAME": "same", "REDIS_INFO_KEY_NAME": "same"}}, "a name of its own"),
    ("E006", {"default": {"LOCK_TTL": "10"}}, "give seconds"),
    ("E006", {"default": {"LOCK_TTL": 0.01}}, "the shortest lease"),
    ("E007", {"default": {"HEARTBEAT_INTERVAL": float("nan")}}, "finite"),
    ("E008", {"default": {"RETRY_INTERVAL": float("inf")}}, "finite"),
    ("E009", {"default": {"INSTANCE_ID": "x" * 10_000}}, "has 10000 characters"),
    ("E010", {"default": {"HOSTNAME": "a\x00"}}, "control characters"),
    ("E011", {"default": {"AUTOSTART": "sometimes"}}, "use True, False or 'auto'"),
    ("E013", {"default": {}, "two": {"REDIS_KEY_NAME": "maplefile:leader:lock"}}, "which 'default' uses, too"),
    (
        "E013",
        {"default": {"CACHE": "leader"}, "two": {"CACHE": "leader again", "REDIS_KEY_NAME": "maplefile:leader:lock"}},
        "which 'default' uses, too (the caches 'leader again' and 'leader' are one Redis database)",
    ),
    ("E012", {"default": {"SERVING_COMMANDS": [5]}}, "give a list of management commands"),
    ("E006", {"default": {}, "a: b": {"LOCK_TTL": "10"}}, "give seconds"),
    ("E008", {"default": {"RETRY_INTERVAL": 1e-6}}, "give at least 0.01 s"),
    (
        "W003",
        {"default": {"CACHE": "bad"}},
        "cannot be used (ValueError); CACHES['bad']['LOCATION'] must be a URL such as ",
    ),
    (
        "W003",
        {"default": {"CACHE": "cluster"}},
        "CACHE is 'cluster': this is a Redis Cluster, which django-leader does",
    ),
    (
        "W003",
        {"default": {"CACHE": "own cluster"}},
        "CACHE is 'own cluster': this is a Redis Cluster (Cluster), which django-leader does",
    ),
    ("E001", {}, "is empty"),
    ("E001", "default", "must be a dict of dicts"),
    ("E001", {"default": "cache"}, "must be a dict of dicts"),
    ("E001", {None: {}}, "must be a dict of dicts"),
    ("E018", {"default": {"LOCAL": "yes"}}, "use True or False"),
    ("W019", {"reports": {}}, "has no 'default'"),
    ("W001", {"default": {"LOCK_TTL": 10_000, "HEARTBEAT_INTERVAL": 3000}}, "no process leads for that long"),
    ("W006", {"default": {"LOCK_TTL": 0}}, "10.0 is used instead"),
    ("W006", {"default": {"LOCK_TTL": -5}}, "10.0 is used instead"),
    ("W007", {"default": {"HEARTBEAT_INTERVAL": 10}}, "3.33"),
    ("W007", {"default": {"LOCK_TTL": 2}}, "3.0, the default, which is too long for the given LOCK_TTL of 2.0; 0.666"),
    ("W007", {"default": {"HEARTBEAT_INTERVAL": None}}, "3.0 is used instead"),
    ("W008", {"default": {"RETRY_INTERVAL": -1}}, "2.0 is used instead"),
    ("E014", {"default": {"QUARANTINE": "10"}}, "give seconds"),
    ("E015", {"default": {"MIN_REPLICAS": "1"}}, "give a whole number of replicas"),
    ("E015", {"default": {"MIN_REPLICAS": -1}}, "give a whole number of replicas, 0 to 100"),
    ("E015", {"default": {}, "a": {"MIN_REPLICAS": True}}, "give a whole number of replicas"),
    ("E023", {"default": {"JOB_THREADS": 0}}, "JOB_THREADS is 0; give a whole number of threads, 1 to 1000"),
    ("E023", {"default": {"JOB_THREADS": "8"}}, "give a whole number of threads"),
    ("E023", {"default": {}, "a": {"JOB_THREADS": True}}, "give a whole number of threads"),
    ("E016", {"default": {"SAME_HOST_TAKEOVER": 1}}, "use True or False"),
    ("E016", {"default": {}, "a": {"SAME_HOST_TAKEOVER": None}}, "use True or False"),
    ("E017", {"default": {"HANDLE_SIGTERM": "yes"}}, "use True or False"),
    ("W014", {"default": {"QUARANTINE": -1}}, "10.0 is used instead"),
    ("W014", {"default": {"QUARANTINE": 5}}, "shorter than LOCK_TTL"),
    ("W004", {"default": {"REDIS_KEY_NAME": ""}}, "'maplefile:leader:lock' is used instead"),
    ("W005", {"default": {"REDIS_INFO_KEY_NAME": ""}}, "'maplefile:leader:info' is used instead"),
]


URL = "must be a URL such as redis://127.0.0.1:6379/0; it "
ENCODED = "must be a URL such as redis://:password@127.0.0.1:6379/0; in the password write %2F for /"
LOCATIONS: list[tuple[Any, str]] = [
    ("127.0.0.1:6379", URL + "is '127.0.0.1:6379'"),
    ("localhost/1", URL + "is 'localhost/1'"),
    (":hunter2@127.0.0.1:6379", URL + "ends in '127.0.0.1:6379'"),
    ("redis//:hunter2@cache.internal", URL + "ends in 'cache.internal'"),
    ("http://:hunter2@h/?hunter2", URL + "is no such URL"),
    ("redis:hunter2:hunter2", URL + "is no such URL"),
    (["127.0.0.1:6379"], URL + "is '127.0.0.1:6379'"),
    ("", URL + "is empty"),
    ([], URL + "is empty"),
    (None, URL + "is empty"),
    (6379, URL + "is '6379'"),
    ("redis://:hunter2@h:port/0", ENCODED),
    ("redis://:a/hunter2@h:1/0", ENCODED),
    ("redis://:a@hun/ter2@h:1/0", ENCODED),
    ("redis://:a@hun#ter2@h:1/0", ENCODED),
    ("redis://:a@hun?ter2@h:1/0", ENCODED),
    (["redis://:a@hun/ter2@h:1/0"], ENCODED),
    ("redis://h/0?socket_timeout=hunter2", "look at its LOCATION and OPTIONS"),
]
GOOD: list[Any] = [
    "redis://127.0.0.1:1", "redis://:p@ss@h:1/0", "redis://:a%2Fb@h:1/0", "rediss://u:p@h/1", "unix:///run/redis?db=1",
    "unix://:p@/run/redis@1", "redis://:p@h:1/0,redis://:p@h:2/0", ["redis://:p@h:1/0", "redis://:p@h:2/0"],
    "redis://h:1/0?password=a@b",
]  # fmt: skip


@pytest.mark.parametrize("backend", ["django_redis.cache.RedisCache", "django.core.cache.backends.redis.RedisCache"])
def test_a_location_that_is_no_url_is_reported_without_its_secret(backend: str) -> None:
    """The message says what was found instead."""
    for location, said in [*LOCATIONS, *((location, "") for location in GOOD)]:
        entry = {"BACKEND": backend} | ({} if location is None else {"LOCATION": location})
        with override_settings(CACHES={"default": entry}, LEADER_ELECTIONS={"default": {}}):
            told = [message.msg for message in checks.check_elections()]
            assert [said in message for message in told] == ([True] if said else []), (location, told)
            assert not any("hun" in message or "ter2" in message for message in told)


PLAIN, DJANGO_REDIS = "django.core.cache.backends.redis.RedisCache", "django_redis.cache.RedisCache"


def sentinel(location: str, *sentinels: str) -> dict[str, Any]:
    factory = "django_redis.pool.SentinelConnectionFactory"
    options = {"CLIENT_CLASS": "django_redis.client.SentinelClient", "CONNECTION_FACTORY": factory}
    return {
        "BACKEND": DJANGO_REDIS,
        "LOCATION": location,
        "OPTIONS": {**options, "SENTINELS": [(host, 26379) for host in sentinels]},
    }


def redis_at(location: Any, backend: str = PLAIN, **options: Any) -> dict[str, Any]:
    return {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}


ONE_DATABASE: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    (redis_at("redis://h/1"), redis_at("rediss://user:secret@H:6379/1", DJANGO_REDIS), True),
    (redis_at("redis://h"), redis_at("redis://h/0"), True),
    (redis_at("redis://h"), redis_at("redis://h/1"), False),
    (redis_at("redis://h"), redis_at("redis://h:6380"), False),
    (redis_at("redis://h"), redis_at("redis://g"), False),
    (redis_at("redis://h/1"), redis_at("redis://h", db=1), True),
    (redis_at(["redis://h/1", "redis://g/1"]), redis_at(["redis://h/1", "redis://f/1"]), True),
    (redis_at("unix:///run/redis?db=1"), redis_at("unix://:secret@/run/redis?db=1"), True),
    (redis_at("unix:///run/redis"), redis_at("unix:///run/Redis"), False),
    (redis_at("redis://h", db="1"), redis_at("redis://h/1"), True),
    (sentinel("redis://primary/1", "a", "b"), sentinel("redis://user:secret@primary/1", "b", "a"), True),
    (sentinel("redis://primary/1", "a", "b"), sentinel("redis://primary/2", "a", "b"), False),
    (sentinel("redis://primary/3", "a", "b"), sentinel("redis://another/3", "a", "b"), False),
    (sentinel("redis://primary:1/4", "a"), sentinel("redis://primary:2/4", "b"), False),
    (sentinel("redis://primary/5", "a"), redis_at("redis://primary/5"), False),
    (redis_at("redis://h:port"), redis_at("redis://h:port"), False),
]


@pytest.mark.parametrize(("one", "other", "same"), ONE_DATABASE)
def test_two_caches_are_one_database_if_they_lead_to_one(
    one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    """However each of them is written."""
    with override_settings(CACHES={"default": one, "other": other}):
        assert (client.database("default") == client.database("other")) is same


def run() -> list[CheckMessage]:
    return checks.check_elections()


@pytest.mark.parametrize(("number", "setting", "says"), CASES)
def test_each_check(number: str, setting: Any, says: str) -> None:
    with override_settings(LEADER_ELECTIONS=setting, CACHES=OTHER_REDIS):
        [message] = run()
    assert message.id == f"django_leader.{number}"
    assert says in message.msg
    assert message.msg.startswith("LEADER_ELECTIONS")


@pytest.mark.parametrize(
    ("setting", "value", "hint"),
    [
        ("REDIS_KEY_NAME", "", "Give a name, or leave the key out for the default."),
        ("REDIS_INFO_KEY_NAME", "", "Give a name, or leave the key out for the default."),
        ("LOCK_TTL", 0, "Give at least 0.1 seconds, or leave the key out for the default."),
        ("RETRY_INTERVAL", 0, "Give at least 0.01 seconds, or leave the key out for the default."),
        ("QUARANTINE", -1, "Give at least the longest LOCK_TTL that any process uses, 0 for none, or leave the key"),
        (
            "HEARTBEAT_INTERVAL",
            9,
            "Give at least 0.01 seconds, and leave time for two tries within LOCK_TTL; a third of",
        ),
        (
            "HEARTBEAT_INTERVAL",
            0,
            "Give at least 0.01 seconds, and leave time for two tries within LOCK_TTL; a third of",
        ),
    ],
)
def test_the_hint_of_a_replaced_value_fits_its_setting(setting: str, value: Any, hint: str) -> None:
    with override_settings(LEADER_ELECTIONS={"default": {setting: value}}, CACHES=OTHER_REDIS):
        [message] = run()
    assert message.hint
    assert message.hint.startswith(hint)


OWN = {"CACHE": "leader", "REDIS_KEY_NAME": "shop:lock", "REDIS_INFO_KEY_NAME": "shop:info"}
DEPLOYED: list[tuple[list[str], Any]] = [
    ([], {"default": OWN}),
    ([], {"default": OWN, "two": {"CACHE": "leader", "REDIS_KEY_NAME": "a", "REDIS_INFO_KEY_NAME": "b"}}),
    ([], []),
    (["W002", "W004", "W005"], None),
    (["W002"], {"default": {**OWN, "CACHE": "default"}}),
    (["W002"], {"default": {**OWN, "CACHE": "default again"}}),
    (["W004"], {"default": {**OWN, "REDIS_KEY_NAME": "maplefile:leader:lock"}}),
    (["W004", "W005"], {"default": {"CACHE": "leader"}, "two": {"CACHE": "leader"}}),
    (["W004", "W005"], {"default": OWN, "command:report": {"CACHE": "leader"}}),
    (["W005"], {"default": {**OWN, "REDIS_INFO_KEY_NAME": None}}),
    (["W014"], {"default": {**OWN, "QUARANTINE": 0}}),
    ([], {"default": {**OWN, "LOCK_TTL": 0}}),
    (["E003"], {"default": {**OWN, "CACHE": "local"}}),
    (["E003"], {"default": {**OWN, "CACHE": "nowhere"}}),
    (["E018"], {"default": {"LOCAL": True}}),
    ([], {"default": {**OWN, "LOCAL": False}}),
]


@pytest.mark.parametrize(("numbers", "setting"), DEPLOYED)
def test_what_is_said_before_a_deployment(numbers: list[str], setting: Any) -> None:
    with override_settings(LEADER_ELECTIONS=setting, CACHES=OTHER_REDIS):
        messages = checks.check_deployment()
    assert [message.id for message in messages] == [f"django_leader.{number}" for number in numbers]
    assert all(message.msg.startswith("LEADER_ELECTIONS[") and message.hint for message in messages)


def test_the_first_lines_of_the_readme_are_fit_for_a_deployment() -> None:
    found: dict[str, Any] = {}
    exec(block("README", "# settings.py"), found)
    assert "django_leader" in found["INSTALLED_APPS"]
    with override_settings(LEADER_ELECTIONS=found.get("LEADER_ELECTIONS"), CACHES=found["CACHES"]):
        assert run() == checks.check_deployment() == []


def test_an_election_without_redis_needs_no_cache() -> None:
    with override_settings(LEADER_ELECTIONS={"default": {"LOCAL": True, "CACHE": "local"}}, CACHES=OTHER_REDIS):
        assert run() == []


@pytest.mark.parametrize(
    "setting",
    [
        None,
        {"default": {}},
        {"default": {"CACHE": "leader", "LOCK_TTL": 30, "AUTOSTART": False}},
        {"default": {"QUARANTINE": 0, "MIN_REPLICAS": 1}, "b": {"QUARANTINE": None}},
        {"default": {"SAME_HOST_TAKEOVER": False}, "b": {"SAME_HOST_TAKEOVER": True}},
        {"default": {}, "b": {}},
        {"default": {"LOCAL": False}},
        {"default": {"LOCK_TTL": 0.1, "HEARTBEAT_INTERVAL": 0.01, "RETRY_INTERVAL": 0.01}},
        {"default": {"MIN_REPLICAS": 0}, "b": {"MIN_REPLICAS": 100}},
    ],
)
def test_good_settings_get_no_message(setting: Any) -> None:
    with override_settings(LEADER_ELECTIONS=setting, CACHES=OTHER_REDIS):
        assert run() == []


def test_every_id_has_a_test_and_every_setting_an_id() -> None:
    source = Path(checks.__file__).read_text()
    literal = set(re.findall(r"django_leader\.([EW]\d{3})", source)) | {"E002"}
    tested = {number for number, _, _ in CASES} | {number for numbers, _ in DEPLOYED for number in numbers}
    tested |= {"W011"}  # in tests/process/test_platforms.py
    assert literal <= tested
    assert {f"E{number:03}" for number in range(1, 19)} <= tested
    assert set(checks.NUMBERS) == set(KEYS)


def test_the_numbers_never_change() -> None:
    """Projects have them in SILENCED_SYSTEM_CHECKS."""
    assert checks.NUMBERS == {
        "CACHE": "003", "REDIS_KEY_NAME": "004", "REDIS_INFO_KEY_NAME": "005", "LOCK_TTL": "006",
        "HEARTBEAT_INTERVAL": "007", "RETRY_INTERVAL": "008", "INSTANCE_ID": "009", "HOSTNAME": "010",
        "AUTOSTART": "011", "SERVING_COMMANDS": "012", "QUARANTINE": "014", "MIN_REPLICAS": "015",
        "SAME_HOST_TAKEOVER": "016", "HANDLE_SIGTERM": "017", "LOCAL": "018", "JOB_THREADS": "023",
    }  # fmt: skip

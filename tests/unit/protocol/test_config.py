"""Durations, names and keys: defaults, repairs, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from django_leader.exceptions import ConfigError
from django_leader.protocol.config import DEFAULTS, Config, Timing, ValidConfig, inbox


def made(values: dict[str, Any]) -> Config:
    """A configuration of values that mypy would refuse."""
    return Config(**values)


def test_the_defaults_are_those_of_the_seed() -> None:
    config = Config().validate()
    assert config.redis_key_name == "maplefile:leader:lock"
    assert config.redis_info_key_name == "maplefile:leader:info"
    assert (config.lock_ttl, config.heartbeat_interval, config.retry_interval) == (10, 3, 2)
    assert config.hostname
    assert config.instance_id.startswith(config.hostname + "-")
    assert Config().repairs() == []


def test_two_processes_never_share_a_generated_instance_id() -> None:
    assert Config().validate().instance_id != Config().validate().instance_id


@pytest.mark.parametrize("name", ["lock_ttl", "heartbeat_interval", "retry_interval"])
@pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, None, timedelta(0), timedelta(seconds=-3)])
def test_a_duration_that_is_not_positive_becomes_the_default(name: str, value: Any) -> None:
    config = made({name: value})
    assert getattr(config.validate(), name) == DEFAULTS[name]
    [repair] = config.repairs()
    assert repair.startswith(f"{name} is ")
    assert f"{DEFAULTS[name]!r} is used instead" in repair


@pytest.mark.parametrize("name", ["lock_ttl", "heartbeat_interval", "retry_interval"])
@pytest.mark.parametrize("value", ["10", "", b"1", True, False, math.nan, math.inf, -math.inf, 1e12, [], 1j, object()])
def test_what_cannot_be_a_duration_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        made({name: value})


@pytest.mark.parametrize("name", ["lock_ttl", "heartbeat_interval", "retry_interval"])
def test_a_timedelta_is_a_duration(name: str) -> None:
    assert getattr(made({name: timedelta(milliseconds=1500)}), name) == 1.5


@pytest.mark.parametrize(("heartbeat", "used"), [(3, 3), (8, 8), (9, 10 / 3), (10, 10 / 3), (60, 10 / 3)])
def test_s02_a_heartbeat_that_cannot_keep_the_lease_becomes_a_third_of_it(heartbeat: float, used: float) -> None:
    config = Config(heartbeat_interval=heartbeat)
    assert config.validate().heartbeat_interval == used
    assert bool(config.repairs()) == (used != heartbeat)


def test_a_default_heartbeat_is_not_blamed_for_a_short_lease() -> None:
    [repair] = Config(lock_ttl=1.5).repairs()
    text = "heartbeat_interval is 3.0, the default, which is too long for the given lock_ttl of 1.5"
    assert repair == f"{text}; 0.5 is used instead"


def test_a_lease_shorter_than_can_be_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lock_ttl is 0\.05 s; the shortest"):
        Config(lock_ttl=0.05)
    assert Config(lock_ttl=0.1).validate().lock_ttl == 0.1


@pytest.mark.parametrize("name", ["heartbeat_interval", "retry_interval"])
def test_an_interval_in_which_a_candidate_would_only_ask_redis_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is 1e-06 s; give at least"):
        made({name: 1e-6})


def test_the_timing_of_the_defaults() -> None:
    assert Config().validate().timing == Timing(10, 3, 2, margin=0.2, operation=2, quarantine=10, replicas=0)


def test_only_a_valid_configuration_has_a_timing() -> None:
    raw = Config(lock_ttl=0)
    assert not hasattr(raw, "timing")
    assert type(raw.validate()) is ValidConfig


def test_a_valid_configuration_stays_as_it_is() -> None:
    valid = Config(lock_ttl=-1, heartbeat_interval=60).validate()
    assert valid.validate() == valid, "with the same instance id"
    assert valid.repairs() == []
    assert Config(**vars(valid)).validate() == valid


@pytest.mark.parametrize(
    ("change", "timing"),
    [
        ({"lock_ttl": 60}, Timing(60, 3, 2, margin=1.2, operation=2, quarantine=60, replicas=0)),
        ({"lock_ttl": 0}, Timing(10, 3, 2, margin=0.2, operation=2, quarantine=10, replicas=0)),
        ({"heartbeat_interval": 60}, Timing(10, 10 / 3, 2, margin=0.2, operation=2, quarantine=10, replicas=0)),
        ({"quarantine": -1}, Timing(10, 3, 2, margin=0.2, operation=2, quarantine=10, replicas=0)),
        ({"min_replicas": 1}, Timing(10, 3, 2, 0.2, operation=0.99 * (10 - 3 - 0.2) / 4, quarantine=10, replicas=1)),
    ],
)
def test_a_changed_copy_of_a_valid_configuration_is_valid(change: dict[str, Any], timing: Timing) -> None:
    valid = Config().validate()
    changed = replace(valid, **change)
    assert changed.timing == timing
    assert changed.instance_id == valid.instance_id


def test_a_copy_of_a_valid_configuration_is_refused_like_any_other() -> None:
    with pytest.raises(ConfigError, match=r"lock_ttl is 0\.05 s; the shortest"):
        replace(Config().validate(), lock_ttl=0.05)


@pytest.mark.parametrize("name", ["redis_key_name", "redis_info_key_name"])
def test_an_empty_key_name_becomes_the_default(name: str) -> None:
    assert getattr(made({name: ""}).validate(), name) == DEFAULTS[name]
    assert getattr(made({name: None}).validate(), name) == DEFAULTS[name]


@pytest.mark.parametrize("name", ["redis_key_name", "redis_info_key_name"])
@pytest.mark.parametrize("value", [b"lock", 7, "a\nb", "a\x00", "{", "a}b", "{}x", "{a}{b}", "}a{", "{a", "{{a}}"])
def test_a_key_name_that_cannot_be_used_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        made({name: value})


@pytest.mark.parametrize("info", ["lock", "{lock}:state", "{lock}:events", "{lock}:candidates", "{lock}:wake"])
def test_the_info_key_is_a_key_of_its_own(info: str) -> None:
    with pytest.raises(ConfigError, match=r"^redis_info_key_name"):
        Config(redis_key_name="lock", redis_info_key_name=info)


def test_all_keys_of_an_election_share_the_slot_of_its_lock() -> None:
    keys = Config(redis_key_name="a:lock").keys
    assert keys[2:] == ("{a:lock}:state", "{a:lock}:candidates", "{a:lock}:events", "{a:lock}:wake")
    assert inbox(keys, "me:1") == "{a:lock}:inbox:me:1"
    tagged = Config(redis_key_name="a:{t}:lock").keys
    assert tagged.state == "a:{t}:lock:state"
    assert inbox(tagged, "me:1") == "a:{t}:lock:inbox:me:1"


@pytest.mark.parametrize("value", [None, 0, 1, "", "no", [], object()])
def test_the_take_over_is_on_or_off(value: Any) -> None:
    assert Config().same_host_takeover is True
    assert Config(same_host_takeover=False).validate().same_host_takeover is False
    assert Config(same_host_takeover=False).derive("a").same_host_takeover is False
    with pytest.raises(ConfigError, match=r"^same_host_takeover is .*; use True or False"):
        made({"same_host_takeover": value})


@pytest.mark.parametrize("value", [None, "a", ["a"], ("a", 5)])
def test_projects_are_texts(value: Any) -> None:
    assert Config(projects=("a", "b")).derive("x").validate().projects == ("a", "b")
    with pytest.raises(ConfigError, match=r"^projects is .*; give a tuple of str"):
        made({"projects": value})


@pytest.mark.parametrize("name", ["instance_id", "hostname"])
@pytest.mark.parametrize("value", ["x" * 10_000, "a\x00b", "a\nb", "\x7f", b"web", 5, "\ud800"])
def test_a_name_that_cannot_be_shown_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} (is|has)"):
        made({name: value})


@pytest.mark.parametrize("name", ["instance_id", "hostname"])
def test_an_empty_name_is_found_out(name: str) -> None:
    assert getattr(made({name: ""}).validate(), name)
    assert getattr(made({name: None}).validate(), name)


def test_a_longest_host_name_leaves_room_for_the_suffix() -> None:
    assert len(Config(hostname="h" * 255).validate().instance_id) == 255


def test_an_election_derived_from_another_has_keys_of_its_own() -> None:
    derived = Config().derive("command:report")
    assert derived.redis_key_name == "maplefile:leader:lock:command:report"
    assert not set(derived.keys) & set(Config().keys)


def test_a_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Config().lock_ttl = 5  # type: ignore[misc]

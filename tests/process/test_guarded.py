"""A guarded command and SIGTERM: its body ends first, the release comes last, and nothing of ours is interrupted."""

from __future__ import annotations

import importlib.util
import signal
import textwrap
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import need
from tests.process.test_stop import Script, handed_over, kept
from tests.support.servers import GENEROUS, RedisServer

SETUP = """
from contextlib import suppress
import django
from django.conf import settings
options = {"LOCK_TTL": 60, "QUARANTINE": 0, "SAME_HOST_TAKEOVER": False}
settings.configure(
    INSTALLED_APPS=["django_leader"],
    CACHES={"default": {
        "BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"redis://127.0.0.1:{sys.argv[1]}/0",
    }},
    LEADER_ELECTIONS={"default": options, "inner": options},
)
django.setup()
from django.core.management import BaseCommand, CommandError, call_command
from django_leader import LeadershipLost, elections, leader_required
election = elections["default"]
server = redis.Redis(port=int(sys.argv[1]))
def is_kept():
    return bool(server.exists("maplefile:leader:lock"))
def command(body, **arguments):
    class Command(BaseCommand):
        @leader_required(**{"election": "default", **arguments})
        def handle(self, *args, **options):
            body()
    return Command()
def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()
def compute():
    while True:
        sum(range(100))
"""

Guarded = Callable[..., Script]


@pytest.fixture
def guarded(some_server: RedisServer) -> Iterator[Guarded]:
    started: list[Script] = []

    def start(code: str, *, first: str = "") -> Script:
        started.append(Script(some_server, f"{first}\n{SETUP}{textwrap.dedent(code)}"))
        return started[-1]

    yield start
    for script in started:
        script.close()


def test_s20_the_body_ends_before_the_release_and_the_process_dies_of_sigterm(
    guarded: Guarded, some_server: RedisServer
) -> None:
    script = guarded("""
        def body():
            try:
                wait()
            finally:
                time.sleep(0.3)
                say(f"finally, kept: {is_kept()}")
        election.on_lose_leadership(lambda: say("loss callback"))
        call_command(command(body, hold=3600))
        say("not reached")
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    script.says("finally, kept: True")
    script.says("loss callback")
    script.says("")
    assert handed_over(some_server), "nothing is held: the job has not been done"


def test_s20_a_body_in_another_thread_ends_before_the_release(guarded: Guarded, some_server: RedisServer) -> None:
    script = guarded("""
        def body():
            try:
                say("ready")
                until(lambda: False, 60)
            finally:
                time.sleep(0.3)
                say(f"finally, kept: {is_kept()}")
        election.handle_exit()  # in the main thread, as a server does
        thread = threading.Thread(target=call_command, args=[command(body)])
        thread.start(); thread.join()
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    script.says("finally, kept: True")
    assert handed_over(some_server)


def test_a_body_that_does_not_end_delays_the_exit_for_limited_time(guarded: Guarded, some_server: RedisServer) -> None:
    """By no more than our patience."""
    script = guarded("""
        def body():
            try:
                wait()
            finally:
                say("finally")
                time.sleep(3600)
        call_command(command(body))
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    script.says("finally")
    assert kept(some_server), "nobody else may begin while it worked"


def test_a_body_whose_wait_misses_the_signal_ends_all_the_same(guarded: Guarded) -> None:
    """A signal that comes just before a system call does not end it. Here the first one does not come at all."""
    script = guarded("""
        send, sent = signal.pthread_kill, []
        def miss_the_first(*signal_to):
            sent.append(signal_to)
            if len(sent) > 1:
                send(*signal_to)
        def body():
            signal.pthread_kill = miss_the_first
            try:
                election.resign()
                time.sleep(3600)
            finally:
                say("finally")
        try:
            call_command(command(body))
        except CommandError:
            say(f"sent: {len(sent)}")
    """)
    script.says("finally")
    script.says("sent: 2")
    assert script.process.wait(GENEROUS) == 0


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_where_threads_are_greenlets_a_body_ends_with_its_process(
    guarded: Guarded, some_server: RedisServer, library: str
) -> None:
    """No thread is there to be interrupted. The body delays the exit for limited time, and nobody else begins."""
    need(importlib.util.find_spec(library) is not None, library)
    patch = "import gevent.monkey; gevent.monkey.patch_all()"
    script = guarded(
        """
        def body():
            say("ready")
            time.sleep(3600)
        call_command(command(body))
        """,
        first=patch if library == "gevent" else "import eventlet; eventlet.monkey_patch()",
    )
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    assert kept(some_server)


def test_a_resignation_ends_the_body_first(guarded: Guarded, some_server: RedisServer) -> None:
    script = guarded("""
        def body():
            try:
                threading.Thread(target=election.resign).start()
                until(lambda: False, 60)
            finally:
                time.sleep(0.3)
                say(f"finally, kept: {is_kept()}")
        try:
            call_command(command(body, hold=3600))
        except CommandError as error:
            say(str(error))
    """)
    script.says("finally, kept: True")
    script.says("Interrupted: LEADER_ELECTIONS['default']: leadership was given up (resign() or stop())")
    assert script.process.wait(GENEROUS) == 0
    assert handed_over(some_server)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", "the process was asked to end (SIGTERM)"),
        ("election.stop()", "leadership was given up (resign() or stop())"),
    ],
    ids=["SIGTERM", "stop"],
)
def test_the_error_of_an_interrupted_command_says_why(guarded: Guarded, end: str, why: str) -> None:
    """The application handles SIGTERM, and goes on for a while."""
    script = guarded(f"""
        signal.signal(signal.SIGTERM, lambda *_: None)
        def body():
            {end}
            until(lambda: False, 60)
        def run():
            try:
                call_command(command(body))
            except CommandError as error:
                say(str(error))
        election.handle_exit()
        thread = threading.Thread(target=run)
        thread.start(); thread.join()
    """)
    script.says(f"Interrupted: LEADER_ELECTIONS['default']: {why}")
    assert script.process.wait(GENEROUS) == 0


def test_a_body_that_stops_its_election_does_not_wait_for_itself(guarded: Guarded, some_server: RedisServer) -> None:
    script = guarded("""
        def body():
            try:
                election.stop()
                until(lambda: False, 60)
            finally:
                say("finally")
        try:
            call_command(command(body))
        except CommandError as error:
            say("interrupted")
    """)
    script.says("finally")
    script.says("interrupted")
    assert script.process.wait(GENEROUS) == 0
    assert handed_over(some_server)


def test_a_handler_that_exits_ends_the_body_alone_and_its_status_stays(
    guarded: Guarded, some_server: RedisServer
) -> None:
    """Its exception is on its way through the body already; a second one would break off what cleans up."""
    script = guarded("""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        def body():
            try:
                wait()
            finally:
                until(lambda: not election.is_leader())
                time.sleep(0.3)
                say(f"finally, kept: {is_kept()}")
        call_command(command(body, hold=3600))
    """)
    script.says("ready")
    assert script.ends() == 9
    script.says("finally, kept: True")
    assert handed_over(some_server), "nothing is held: the job has not been done"


def test_a_service_that_ends_by_itself_at_sigterm_is_no_error(guarded: Guarded, some_server: RedisServer) -> None:
    """Its handler makes it end, and it returns."""
    script = guarded("""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        def body():
            with suppress(SystemExit):
                wait()
            until(lambda: not election.is_leader())
            time.sleep(0.3)
        call_command(command(body))
        say("returned")
    """)
    script.says("ready")
    assert script.ends() == 0
    script.says("returned")
    assert handed_over(some_server)


def test_a_job_that_a_handler_ends_at_once_is_not_delayed(guarded: Guarded, some_server: RedisServer) -> None:
    """The handler exits, and the election is handed over."""
    script = guarded("""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        call_command(command(wait, hold=3600))
    """)
    script.says("ready")
    assert script.ends() == 9
    assert handed_over(some_server)


def test_the_interruption_does_not_hit_the_handler_of_before(guarded: Guarded, some_server: RedisServer) -> None:
    script = guarded("""
        def handler(number, frame):
            say("handler")
            until(lambda: not election.is_leader())
            time.sleep(0.5)
            say("done")
        signal.signal(signal.SIGTERM, handler)
        def body():
            try:
                wait()
            finally:
                say("finally")
        try:
            call_command(command(body))
        except CommandError as error:
            say("interrupted")
    """)
    script.says("ready")
    script.process.send_signal(signal.SIGTERM)
    for text in ("handler", "done", "finally", "interrupted"):
        script.says(text)
    assert script.process.wait(GENEROUS) == 0
    assert handed_over(some_server)


def test_s20_the_interruption_does_not_hit_our_own_wait_for_the_hand_over(
    guarded: Guarded, some_server: RedisServer
) -> None:
    script = guarded("""
        def lost():
            time.sleep(0.5)
            say("lost")
        election.on_lose_leadership(lost)
        call_command(command(wait))
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    script.says("lost")
    assert handed_over(some_server)


@pytest.mark.parametrize("handler", ["", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))"])
def test_s20_in_a_process_that_computes_the_order_is_the_same(
    guarded: Guarded, some_server: RedisServer, handler: str
) -> None:
    """Threads that compute: whoever waits for the GIL waits long, and the interpreter switches all the time."""
    for _ in range(3):
        some_server.client().flushall()
        script = guarded(f"""
            import django_leader.system.sigterm
            django_leader.system.sigterm.PATIENCE = 3600  # the machine may be busy
            {handler}
            def body():
                for _ in range(3):
                    threading.Thread(target=compute, daemon=True).start()
                try:
                    wait()
                finally:
                    say(f"finally, kept: {{is_kept()}}")
            call_command(command(body))
        """)
        script.says("ready")
        assert script.ends() == (9 if handler else -signal.SIGTERM)
        script.says("finally, kept: True")
        script.says("")
        assert handed_over(some_server)


def test_an_inner_command_is_interrupted_with_the_outer_one(guarded: Guarded, some_server: RedisServer) -> None:
    """Both elections are released: the inner one's error must not keep the outer one at work."""
    script = guarded("""
        def outer():
            try:
                with suppress(Exception):
                    call_command(command(wait, election="inner"))
                until(lambda: False, 60)
            finally:
                say(f"finally, kept: {is_kept()}")
        call_command(command(outer))
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    assert script.process.stdout
    assert "finally, kept: True" in script.process.stdout.read().splitlines()
    assert not some_server.client().exists("maplefile:leader:lock", "maplefile:leader:lock:inner")


@pytest.mark.parametrize("ours", [True, False])
def test_s20_a_hand_over_that_is_over_first_ends_it_too(guarded: Guarded, some_server: RedisServer, ours: bool) -> None:
    """The process ends by the signal, and not by the error of the command."""
    script = guarded(f"""
        import django_leader.system.sigterm
        django_leader.system.sigterm.CHECK_INTERVAL = 5.0  # the thread that waits for the hand-over is late, too
        def call():
            try:
                call_command(command(wait))
            finally:
                until(lambda: not election.running)
        if {ours}:
            stop = election.stop
            election.stop = lambda **options: (until(lambda: not election.running), stop(**options))
        else:
            election.start()
        call()
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    assert handed_over(some_server)

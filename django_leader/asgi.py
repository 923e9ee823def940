"""For ASGI servers: the elections of a process hand over when its server says that it shuts down.

On ``SIGTERM`` they hand over without this, where the signal handler may do so (``HANDLE_SIGTERM``). This is for
projects that prefer the server's word, or end the server otherwise::

    application = handing_over(get_asgi_application())
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from .runtime.lifecycle import lifecycle

Application = Callable[[Any, Any, Any], Awaitable[Any]]
"""A function of scope, receive and send. Every project types these in its own way."""


def handing_over(application: Application) -> Application:
    """Return ``application`` such that the elections hand over before ``lifespan.shutdown``, within two seconds. Local.

    They do so in a thread of its own, so the event loop goes on. ``LeaderElection.stop`` says what a hand-over costs.
    If no thread can be started, the end of the process hands over.

    Django's own application does not know lifespan, so this function answers in its place. An application that asks for
    lifespan receives the messages as before. The returned application raises what ``application`` raises, except what
    that raises for lifespan before it has asked for a message, because it does not know lifespan then.
    """

    async def wrapped(scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] != "lifespan":
            return await application(scope, receive, send)
        asked = False

        async def receive_and_stop() -> Any:
            nonlocal asked
            asked = True
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                # Not in the loop's own pool, where it would queue behind what the application still does there.
                with suppress(RuntimeError):  # no thread can be started: then the end of the process hands over
                    await asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1), lifecycle.stop)
            return message

        try:
            await application(scope, receive_and_stop, send)
        except Exception:
            if asked:
                raise
        if asked:
            return None
        while (message := await receive_and_stop())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return None

    return wrapped

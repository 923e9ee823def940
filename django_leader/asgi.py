"""For ASGI servers: the elections of a process hand over when its server says that it shuts down.

``SIGTERM`` does so by itself where its handler may (``HANDLE_SIGTERM``). This is for who prefers the server's word, or
ends it otherwise::

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
"""Of scope, receive and send; every project types these in its own way."""


def handing_over(application: Application) -> Application:
    """``application``, before whose ``lifespan.shutdown`` the elections of the process hand over, within two seconds.

    Django's own application knows no lifespan, so it is answered for it; one that asks for it is told as before.
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
                # Not in the loop's own pool, where it would queue behind whatever the application still does there.
                with suppress(RuntimeError):  # no thread can be started: the end of the process hands over
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

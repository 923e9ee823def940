"""Schedulers of Celery beat, of which only the leader's sends: ``celery -A proj beat -S django_leader.celery:NAME``.

``DatabaseScheduler`` is that of django-celery-beat, and ``PersistentScheduler`` that of Celery. ``LeaderScheduler`` is
the mixin of both. Put it before any other scheduler that has the ``tick()`` of Celery.

Each is imported when it is first used. ``scheduler`` says what is guaranteed, and what is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .database import DatabaseScheduler
    from .persistent import PersistentScheduler
    from .scheduler import LeaderScheduler

__all__ = ["DatabaseScheduler", "LeaderScheduler", "PersistentScheduler"]

_MODULES = {
    "DatabaseScheduler": ("database", "django-celery-beat", "django_celery_beat"),
    "LeaderScheduler": ("scheduler", "celery", "celery"),
    "PersistentScheduler": ("persistent", "celery", "celery"),
}
"""Of each name its module here, and what it needs: as it is installed, and as it is imported."""


if not TYPE_CHECKING:  # type checkers know the names from above, and no other

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module, package, needed = _MODULES[name]
        try:
            value = getattr(import_module(f".{module}", __name__), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != needed:
                raise
            raise ImportError(f"{__name__}.{name} needs {package}: pip install {package}", name=needed) from error
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

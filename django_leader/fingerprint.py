"""By what two projects that share the keys of an election notice each other.

NOT guaranteed here: that projects with one ``SECRET_KEY`` are told apart, such as copies of a template, or two stages
with the same settings.

``SECRET_KEY`` differs between projects, and is the same in all processes and releases of one project. The name of the
settings module is no substitute: web processes and workers of one project may have a module each, and two projects may
both have ``mysite``.

A fingerprint is published in Redis. It has 32 bits, so it reveals nothing of a key that is as random as that of
``startproject``. A key that can be guessed from it can be guessed from any signed cookie as well.
"""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import salted_hmac

from .protocol.config import FINGERPRINT_LENGTH

SALT = "django_leader.fingerprint"


def fingerprints() -> tuple[str, ...]:
    """Return those of this project, its own first, then those of ``SECRET_KEY_FALLBACKS``. Local, never raises.

    Empty without a ``SECRET_KEY`` that can be used.
    """
    try:
        keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
        return tuple(
            salted_hmac(SALT, "", secret=key, algorithm="sha256").hexdigest()[:FINGERPRINT_LENGTH] for key in keys
        )
    except (ImproperlyConfigured, TypeError, ValueError):  # ValueError: a lone surrogate
        # Django says what is wrong with the key, where the key is needed.
        return ()

"""Django for tests: it is set up once a process, for all that use it."""

from __future__ import annotations

import django
from django.conf import settings


def set_up_django() -> None:
    if not settings.configured:
        settings.configure(
            DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}},
            DEFAULT_CHARSET="utf-8",
            ALLOWED_HOSTS=["*"],
        )
        django.setup()

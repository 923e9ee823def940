"""The same project as in the tests of the Django face."""

from tests.django.conftest import project

__all__ = ["project"]

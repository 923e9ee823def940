"""The configuration of the manual: ``make docs``."""

from __future__ import annotations

from importlib.metadata import version as version_of

import django
from django.conf import settings

settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django_leader"], USE_TZ=True)
django.setup()

project = "django-leader"
copyright = "the django-leader authors"
release = version = version_of("django-leader")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4  # so that pages link to headings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True  # of a block with a prompt; any other is copied whole

html_theme = "furo"
html_title = f"django-leader {release}"

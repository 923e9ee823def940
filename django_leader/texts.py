"""Sentences for logs, programs and users: English where they are made, and translated only where a user reads them.

The modules that do not know Django make them. ``report.translated`` translates them.
"""

from __future__ import annotations

from typing import Any


class Text(str):
    """An English sentence that keeps its template and what is filled in, so that it can be translated later.

    It is a string like any other: for the log, for JSON and to compare with. ``locale/`` has the translations of the
    templates; ``tests/support/messages.py`` finds every call of this class.
    """

    template: str
    names: dict[str, Any]

    def __new__(cls, template: str, /, **names: Any) -> Text:
        """Return the sentence. ``template`` is a literal with named placeholders, as in ``"%(value)r"``."""
        text = super().__new__(cls, template % names if names else template)
        text.template, text.names = template, names
        return text

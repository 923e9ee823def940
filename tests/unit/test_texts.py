"""Sentences that can be translated later are ordinary English strings until then."""

from __future__ import annotations

import json

from django_leader.texts import Text


def test_a_text_is_an_english_string_that_keeps_its_parts() -> None:
    text = Text("this is %(what)r", what="100%d")
    assert text == "this is '100%d'"
    assert json.dumps([text]) == json.dumps([str(text)])
    assert (text.template, text.names) == ("this is %(what)r", {"what": "100%d"})


def test_a_text_without_names_may_have_any_character() -> None:
    assert Text("100%") == Text("100%").template == "100%"

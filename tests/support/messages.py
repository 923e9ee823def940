"""``python -m tests.support.messages``: compile the translations, and name what one lacks or has too much.

The exit status is 1 if there is anything to name. The tools of GNU gettext are not needed. They would not find the
calls of ``Text``.
"""

from __future__ import annotations

import ast
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from django.template import Engine, Template
from django.template.base import TextNode
from django.templatetags.i18n import BlockTranslateNode, TranslateNode

from tests.support.candidates import ROOT

PACKAGE = ROOT / "django_leader"
CONTEXT = "leader election"
"""The context of every message. Django merges the catalogs of all apps, and others say "Host" or "elections", too."""
SINGULAR, PLURAL = ("pgettext", "pgettext_lazy"), ("npgettext", "npgettext_lazy")
WITHOUT_CONTEXT = ("_", "gettext", "gettext_lazy", "gettext_noop", "ngettext", "ngettext_lazy")


class Message(NamedTuple):
    """What is to be translated: a text, with its plural if it counts something."""

    singular: str
    plural: str = ""


def catalogs() -> list[Path]:
    """The translations as text, one of each language."""
    return sorted((PACKAGE / "locale").glob("*/LC_MESSAGES/django.po"))


def used() -> set[Message]:
    """Every message of the package."""
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))]
    return {message for module in modules for message in in_python(module)} | {
        message for template in templates() for message in in_template(template)
    }


def in_python(module: ast.Module) -> Iterator[Message]:
    """The messages of a module. ``ValueError`` for one that no tool can read."""
    for node in ast.walk(module):
        name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if not isinstance(node, ast.Call) or name not in ("Text", *SINGULAR, *PLURAL, *WITHOUT_CONTEXT):
            continue
        if "text.template" in map(ast.unparse, node.args):
            continue  # where a Text is translated
        arguments = [argument.value if isinstance(argument, ast.Constant) else None for argument in node.args]
        context, texts = (CONTEXT, arguments) if name == "Text" else (arguments[0], arguments[1:])
        texts = texts[:2] if name in PLURAL else texts
        if context != CONTEXT or name in WITHOUT_CONTEXT or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"line {node.lineno}: {ast.unparse(node)}")
        yield Message(*map(str, texts))


def templates() -> list[Template]:
    """The templates of the package, parsed."""
    engine = Engine(
        libraries={"i18n": "django.templatetags.i18n", "static": "django.templatetags.static"},
    )
    return [engine.from_string(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.html"))]


def in_template(template: Template) -> Iterator[Message]:
    """The messages of a template. ``ValueError`` for one without the context."""
    nodes: list[Any] = [
        *template.nodelist.get_nodes_by_type(TranslateNode),
        *template.nodelist.get_nodes_by_type(BlockTranslateNode),
    ]
    for node in nodes:
        block = isinstance(node, BlockTranslateNode)
        texts = [node.render_token_list(part)[0] for part in (node.singular, node.plural) if part] if block else []
        if node.message_context is None or node.message_context.resolve({}) != CONTEXT:
            raise ValueError(f"no context: {texts or node.filter_expression}")
        yield Message(*texts) if block else Message(node.filter_expression.var.literal)


def untranslatable(template: Template) -> list[str]:
    """What users read of a template, and no translation can change."""
    nodes: list[Any] = template.nodelist.get_nodes_by_type(TextNode)
    texts = (re.sub(r"<[^>]*(>|$)|^[^<>]*>", " ", node.s).strip() for node in nodes)
    inside = re.compile(r'^[^<>]*"|"$')  # between two placeholders of one tag
    return [text for text in texts if re.search(r"[^\W\d_]", text) and not inside.search(text)]


def parse(text: str) -> dict[Message, list[str]]:
    """The translations of a catalog, by message; that of the empty message is the header. All have the context."""
    found = {}
    for entry in re.split(r"\n\s*\n", text.strip()):
        fields: dict[str, str] = {}
        name = ""
        for line in entry.splitlines():
            if line.startswith("#"):
                continue
            start, _, literal = line.partition('"')
            name = start.strip() or name
            fields[name] = fields.get(name, "") + ast.literal_eval(f'"{literal}')
        message = Message(fields["msgid"], fields.get("msgid_plural", ""))
        if message in found or fields.get("msgctxt") != (CONTEXT if message.singular else None):
            raise ValueError(f"twice, or without its context: {message.singular!r}")
        found[message] = [fields[name] for name in sorted(fields) if name.startswith("msgstr")]
    return found


def compiled(translations: dict[Message, list[str]]) -> bytes:
    """The same as a ``.mo`` file: a header, two tables of (length, offset), and the texts, each with a zero."""
    pairs = sorted((key(message).encode(), "\0".join(texts).encode()) for message, texts in translations.items())
    texts = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    start = 28 + 8 * len(texts)
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, start)
    table, data = b"", b""
    for text in texts:
        table += struct.pack("<2I", len(text), start + len(data))
        data += text + b"\0"
    return head + table + data


def key(message: Message) -> str:
    """How a compiled catalog names the message; the header has no name."""
    texts = "\0".join(filter(None, message))
    return f"{CONTEXT}\4{texts}" if texts else ""


def main() -> int:
    """Compile each catalog. Print what is wrong with it."""
    wrong = 0
    for path in catalogs():
        translations = parse(path.read_text(encoding="utf-8"))
        path.with_suffix(".mo").write_bytes(compiled(translations))
        has = {message for message, texts in translations.items() if all(texts) and message.singular}
        for what, messages in (("not translated", used() - has), ("not used", has - used())):
            for message in sorted(messages):
                sys.stdout.write(f"{path.relative_to(ROOT)}: {what}: {message.singular!r}\n")
                wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())

"""Every rule of safety has a test that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import rules


def test_every_rule_has_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    assert rules.main() == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    assert shown.count("\n  ") >= len(rules.RULES)
    assert "\nS19  A forked child is not the leader" in shown
    assert "redis/test_forks.py::test_s08_s19_" in shown


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("test_s08_s19_a_fork", ["S8", "S19"]),
        ("test_s08_j10_a_fork", ["S8", "J10"]),
        ("test_s08_a_step_s19_back", ["S8"]),
        ("test_s1_of_a_list", []),
        ("test_8_s08_words", []),
    ],
)
def test_which_rules_a_name_says(name: str, held: list[str]) -> None:
    assert rules.named(name) == held


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("test_s18_", "test_"), "S18  Wall time decides nothing.\n  NO TEST\n"),
        (("test_s18_", "test_s18_s99_"), "NO SUCH RULE  inner/test_all.py::test_s18_s99_x\n"),
        (("test_s18_", "test_s18_"), ""),
    ],
)
def test_a_rule_without_a_test_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], line: str
) -> None:
    """So is a test of a rule that does not exist."""
    source = "".join(
        f"class Test{rule}:\n    async def test_{rule[0].lower()}{rule[1:]:>02}_x(self): ...\n" for rule in rules.RULES
    )
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "test_all.py").write_text(source.replace(*change))
    assert rules.main(tmp_path) == int(bool(line))
    assert line in capsys.readouterr().out

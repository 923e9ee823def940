"""What the benchmarks make of numbers: statistics, verdicts, tables and the picture."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from benchmarks.light import NOTHING, Loop, parse
from benchmarks.picture import draw
from benchmarks.report import SPREAD, Aim, Section, aims, aims_text, document, spread
from benchmarks.servers import Trouble
from benchmarks.stats import number, summarize

SVG = "{http://www.w3.org/2000/svg}"


def test_a_summary_of_a_hundred_and_one_numbers() -> None:
    summary = summarize([float(value) for value in range(101)])
    assert (summary.count, summary.median, summary.p25, summary.p75, summary.most) == (101, 50, 25, 75, 100)
    assert summary.p99 == pytest.approx(99)


def test_a_summary_of_one_number() -> None:
    assert summarize([3.0]) == summarize([3.0, 3.0]).__class__(1, 3, 3, 3, 3, 3)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00012, "0.00012"), (0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_numbers_have_about_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_an_aim_is_met_up_to_its_limit() -> None:
    assert Aim("", 2.0, 2).verdict == "met"
    assert Aim("", 2.1, 2).verdict == "**not met**"
    assert Aim("", None, 2).verdict == "not measured"


def test_aims_are_ratios_of_what_was_measured() -> None:
    measured = {aim.what: aim.measured for aim in aims({"handover": 1.5, "handover peer": 3.0, "handover p99": 6.0})}
    assert measured["hand-over, 3 candidates: median / the fastest peer's"] == 0.5
    assert measured["hand-over, 3 candidates: p99 / median"] == 4
    assert measured["hand-over, light candidates: median with 999 / with 3"] is None
    assert "not measured" not in aims_text({"handover": 1.5, "handover p99": 6.0})
    assert aims_text({}) == ""


def test_a_section_for_a_terminal_and_for_a_file() -> None:
    section = Section("Hand-over", "python -m benchmarks handover", "A note.", ("system", *SPREAD), seconds=12.3)
    section.rows.append(("ours | us", *spread(summarize([1.0, 2.0, 3.0]))))
    section.left_out["etcd"] = "no etcd on this machine"
    assert "ours | us    2.00" in section.text()
    assert "left out: etcd (no etcd on this machine)" in section.text()
    text = document({"machine": "two cores"}, [section])
    assert "| ours \\| us | 2.00 |" in text
    assert "- machine: two cores" in text
    assert "Left out: etcd (no etcd on this machine)." in text


REPLIES = [
    (b"$5\r\n1\nyes\r\n", b"1\nyes"),
    (b"+100 renewed\r\n", b"100 renewed"),
    (b"*2\r\n$4\r\nwake\r\n$1\r\n1\r\n", [b"wake", b"1"]),
    (b"*-1\r\n", NOTHING),
]


@pytest.mark.parametrize(("data", "value"), REPLIES)
def test_a_light_candidate_reads_a_reply_when_it_is_complete(data: bytes, value: object) -> None:
    assert parse(data) == (value, len(data))
    assert parse(data + b"$3\r\n") == (value, len(data))
    assert all(parse(data[:length]) is None for length in range(len(data)))


def test_an_error_ends_the_measurement() -> None:
    with pytest.raises(Trouble, match="NOSCRIPT"):
        parse(b"-NOSCRIPT No matching script.\r\n")


def test_a_loop_calls_in_the_order_of_the_instants() -> None:
    loop, called = Loop(), list[str]()

    def end() -> None:
        raise Trouble("the end")

    for instant, call in ((0.0, end), (-1.0, lambda: called.append("second")), (-2.0, lambda: called.append("first"))):
        loop.at(instant, call)
    with pytest.raises(Trouble, match="the end"):
        loop.run()
    assert called == ["first", "second"]


def test_the_picture_is_xml_with_a_row_for_each_system() -> None:
    samples = {"ours": [1.0, 1.5, 0.8], "a < b & c": [300.0, 1500.0], "alone": [10.0]}
    root = ET.fromstring(draw("Hand-over", samples, "ours"))
    groups = root.findall(f"{SVG}g")
    assert [group.get("class") for group in groups] == ["ours", "peer", "peer"]
    assert len(root.findall(f".//{SVG}circle")) == 6
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "a < b & c" in texts
    assert texts.count("1 s") == 1
    width = float(root.get("width", "0"))
    assert all(0 < float(circle.get("cx", "0")) < width for circle in root.iter(f"{SVG}circle"))

"""Data frames: every form gives one frame, and what breaks a rule is told with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finrl_env import data_of
from finrl_env.frames import MAX_SENT_CELLS, Frame, read_frame, sent_frame
from finrl_env.market import Market, load_market

from openenv_async.errors import InvalidOption

LONG = {
    "date": ["2001-01-02", "2001-01-01", "2001-01-01", "2001-01-02"],
    "tic": ["B", "A", "B", "A"],
    "open": [4, 1, 2, 3],
    "high": [5, 2, 3, 4],
    "low": [3, 1, 1, 2],
    "close": [4, 1, 2, 3],
    "volume": [40, 10, 20, 30],
    "vix": [7.5, 7, 7, 7.5],
    "sector": ["tech", "food", "tech", "food"],
}
CLOSES = [[1.0, 2.0], [3.0, 4.0]]


def pandas_frames() -> tuple[Any, Any]:
    """The same, long and wide, as pandas users have them: dates as timestamps, two levels."""
    pandas = pytest.importorskip("pandas")
    long = pandas.DataFrame(LONG)
    long["date"] = pandas.to_datetime(long["date"])
    fields = ["open", "high", "low", "close", "volume"]
    wide = long.pivot_table(index="date", columns="tic", values=fields)
    return long, wide


def as_csv(path: Path, columns: dict[str, Any]) -> str:
    lines = [
        ",".join(columns),
        *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def checked(frame: Frame) -> Frame:
    assert frame.tickers == ("A", "B")
    assert frame.dates == ("2001-01-01", "2001-01-02")
    assert frame.columns["close"].tolist() == CLOSES
    return frame


def test_every_form_says_the_same(tmp_path: Path) -> None:
    long = checked(sent_frame(LONG))
    assert set(long.columns) == {"open", "high", "low", "close", "volume", "vix"}
    rows = [dict(zip(LONG, row, strict=True)) for row in zip(*LONG.values(), strict=True)]
    assert checked(sent_frame(rows)) == long
    assert checked(read_frame(as_csv(tmp_path / "long.csv", LONG))) == long
    named = {name.title() if name != "vix" else name: each for name, each in LONG.items()}
    assert checked(sent_frame(json.loads(json.dumps(named)))) == long

    wide = {"date": ["2001-01-01", "2001-01-02"], "A": [1, 3], "B": [2, 4]}
    closes = checked(sent_frame(wide))
    path = tmp_path / "wide.csv.gz"
    path.write_bytes(gzip.compress(b"date,A,B\n2001-01-01,1,2\n2001-01-02,3,4\n"))
    assert checked(read_frame(str(path))) == closes
    assert closes != long
    fields = {"date": wide["date"], "close": {"A": [1, 3], "B": [2, 4]}}
    assert checked(sent_frame(fields)) == closes


def test_pandas_frames_are_taken_here_and_can_be_sent(tmp_path: Path) -> None:
    long, wide = pandas_frames()
    expected = sent_frame(LONG)
    assert checked(sent_frame(long)) == expected
    assert checked(sent_frame(json.loads(json.dumps(data_of(long))))) == expected
    without = {name: LONG[name] for name in LONG if name not in ("vix", "sector")}
    fields = sent_frame(without)
    for each in (sent_frame(wide), sent_frame(json.loads(json.dumps(data_of(wide))))):
        checked(each)
        for name, column in fields.columns.items():
            assert each.columns[name].tolist() == column.tolist()
    pytest.importorskip("pyarrow")
    long.to_parquet(tmp_path / "long.parquet")
    assert checked(read_frame(str(tmp_path / "long.parquet"))) == expected
    wide["close"].to_parquet(tmp_path / "wide.parquet")
    checked(read_frame(str(tmp_path / "wide.parquet")))


def test_files_of_yfinance_are_read(tmp_path: Path) -> None:
    path = tmp_path / "yf.csv"
    path.write_text(
        "Price,Close,Close,High,High,Low,Low,Open,Open,Volume,Volume\n"
        "Ticker,A,B,A,B,A,B,A,B,A,B\n"
        "Date,,,,,,,,,,\n"
        "2001-01-01,1,2,2,3,1,1,1,2,10,20\n"
        "2001-01-02,3,4,4,5,2,3,3,4,30,40\n"
    )
    frame = checked(read_frame(str(path)))
    assert frame.columns["volume"].tolist() == [[10, 20], [30, 40]]


def test_a_market_has_what_its_frame_has() -> None:
    market = Market.of(sent_frame(LONG), ("B",), ("vix", "close_30_sma"))
    assert market.prices.tolist() == [[2], [4]]
    assert market.opens is not None
    assert market.volumes is not None
    assert (market.opens.tolist(), market.volumes.tolist()) == ([[2], [4]], [[20], [40]])
    assert market.features[:, :, 0].tolist() == [[7, 2], [7.5, 3]]
    assert load_market(None).opens is None
    with pytest.raises(InvalidOption, match="no feature 'sector': take some of"):
        Market.of(sent_frame(LONG), None, ("sector",))
    holed = sent_frame(LONG | {"vix": [7, 7, None, 7]})
    with pytest.raises(InvalidOption, match="vix of B on 2001-01-01 is missing"):
        Market.of(holed, None, ("vix",))
    assert Market.of(holed, None, ("macd",)).prices.tolist() == CLOSES


def test_turbulence_of_the_frame_is_one_number_a_day() -> None:
    data = LONG | {"turbulence": [2.0, 1.0, 1.0, 2.0]}
    assert Market.of(sent_frame(data)).turbulence.tolist() == [1, 2]
    with pytest.raises(InvalidOption, match="turbulence differs between tickers on 2001-01-02"):
        Market.of(sent_frame(LONG | {"turbulence": [2.0, 1.0, 1.0, 3.0]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"date": ["2001-01-02", "2001-01-02"] * 2}, "two rows of B on 2001-01-02"),
        ({"tic": ["A", "A", "B", "C"]}, "C is missing on 2001-01-01"),
        ({"date": ["2001-01-02 09:30:00"] * 4}, "not a date: a row is a day"),
        ({"date": ["2001-02-30"] * 4}, "'2001-02-30' is not a date"),
        ({"date": [20010101] * 4}, "20010101 is not a date"),
        ({"close": [4, 1, -2, 3]}, "B on 2001-01-01: close is missing or not positive"),
        ({"close": [4, 1, None, 3]}, "B on 2001-01-01: close is missing"),
        ({"close": [4, 1, float("inf"), 3]}, "B on 2001-01-01: close is missing"),
        ({"close": [4, 1, "two", 3]}, "close has 'two', which is not a number"),
        ({"close": [4, 1, {"a": 1}, 3]}, "close has {'a': 1}, which is not a number"),
        ({"open": [4, 1, 0, 3]}, "B on 2001-01-01: open is missing or not positive"),
        ({"volume": [40, 10, -1, 30]}, "B on 2001-01-01: volume is missing or negative"),
        ({"low": [3, 1, 2.5, 2]}, "B on 2001-01-01: low is not the day's lowest"),
        ({"high": [5, 2, 1.9, 4]}, "B on 2001-01-01: high is not the day's highest"),
        ({"close": [4, 1, 2]}, "close has 3 values and date 4"),
        ({"Close": [1, 2, 3, 4]}, "two columns 'close'"),
        ({"close": "4123"}, "close is not a list of values"),
        ({"tic": ["A", "A", "", ""]}, "a ticker has no name"),
    ],
)
def test_what_breaks_a_rule_is_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        sent_frame(LONG | change)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "columns or a list of rows"),
        ({}, "no column 'date'"),
        ("2001", "data is str: give a pandas data frame"),
        ([{"date": "2001-01-01", "A": 1}, {"date": "2001-01-02"}], "row 1 has not the fields"),
        ([{"date": "2001-01-01", "A": 1}, 5], "row 1 has not the fields"),
        ({"date": ["2001-01-01", "2001-01-02"], "tic": ["A", "A"]}, "no column 'close'"),
        ({"date": ["2001-01-01"], "A": [1]}, "two days or more"),
        ({"date": ["2001-01-02", "2001-01-01"], "A": [1, 2]}, "must ascend"),
        ({"date": ["2001-01-01", "2001-01-02"]}, "no closing prices"),
        ({"date": ["2001-01-01", "2001-01-02"], "open": {"A": [1, 2]}}, "no closing prices"),
        (
            {"date": ["2001-01-01", "2001-01-02"], "close": {"A": [1, 2]}, "open": {"B": [1, 2]}},
            "A has no open|B has no close",
        ),
        ({"date": ["2001-01-01"] * (MAX_SENT_CELLS + 1)}, "200,000 may be sent"),
    ],
)
def test_what_is_no_frame_is_told(data: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        sent_frame(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,A\n2001-01-02,1\n2001-01-01,1\n", "ascend"),
        ("date,A\n2001-01-01,1\n2001-01-02,-1\n", "A on 2001-01-02: close is missing or not pos"),
        ("date,tic,close\n2001-01-01,A,1\n2001-01-02,B,1\n", "B is missing on 2001-01-01"),
        ("date,A\n2001-01-01,x\n2001-01-02,1\n", "A has 'x', which is not a number"),
        ("date,A\n2001-01-01,1\n2001-01-02\n", "line 3 has 1 fields, the head 2"),
        ("date,A,A\n2001-01-01,1,1\n", "the column 'A' is there twice"),
        ("", "it is empty"),
    ],
)
def test_bad_files_are_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(text)
    with pytest.raises(InvalidOption, match=message):
        read_frame(str(path))


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    for name, content in (
        ("prices.csv.gz", b"no gzip"),
        ("prices.parquet", b"no parquet"),
        ("prices.csv", b"\xff\xfe\x00"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InvalidOption, match=f"{name} cannot be read as prices"):
            read_frame(str(path))


def test_a_frame_whose_turbulence_takes_long_is_refused() -> None:
    days = (np.datetime64("2001-01-01") + np.arange(600)).astype(str).tolist()
    wide = {"date": days} | {f"T{at}": [1.0] * 600 for at in range(100)}
    with pytest.raises(InvalidOption, match="100 tickers over 600 days are more than"):
        sent_frame(wide)
    assert len(sent_frame({name: wide[name] for name in list(wide)[:80]}).tickers) == 79


def test_equal_frames_are_one_market() -> None:
    assert hash(sent_frame(LONG)) == hash(sent_frame(LONG))
    changed = sent_frame(LONG | {"vix": [7.5, 7, 7, 7.4]})
    assert changed != sent_frame(LONG)
    assert np.array_equal(changed.columns["close"], sent_frame(LONG).columns["close"])

"""Make ``finrl_env/data/prices.csv.gz`` from skfolio's S&P 500 dataset.

    pip download --no-deps skfolio==1.12.2
    python scripts/make_prices.py skfolio-1.12.2-py3-none-any.whl

Daily adjusted closing prices of 20 stocks, 1999-01-04 to 2022-12-28. The years before are left
out: prices there are so small after adjustment that three decimals blur their returns.
"""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path

FIRST = "1999-01-04"
TARGET = Path(__file__).resolve().parent.parent / "finrl_env" / "data"


def main() -> None:
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        packed = wheel.read("skfolio/datasets/data/sp500_dataset.csv.gz")
        name = next(each for each in wheel.namelist() if each.endswith("licenses/LICENSE"))
        notice = wheel.read(name).decode()
    head, *rows = gzip.decompress(packed).decode().splitlines()
    kept = [row for row in rows if row[:10] >= FIRST]
    text = "\n".join(["date" + head[head.index(",") :], *kept]) + "\n"
    (TARGET / "prices.csv.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    (TARGET / "LICENSE-skfolio.txt").write_text(notice, encoding="utf-8")


if __name__ == "__main__":
    main()

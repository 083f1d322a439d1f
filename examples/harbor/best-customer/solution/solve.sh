#!/bin/bash
python3 - <<'END'
import sqlite3

(name,) = sqlite3.connect("/app/shop.db").execute(
    "SELECT name FROM customers JOIN orders ON customer = id WHERE status != 'cancelled'"
    " GROUP BY id ORDER BY sum(amount) DESC LIMIT 1"
).fetchone()
open("/app/answer.txt", "w").write(name)
END

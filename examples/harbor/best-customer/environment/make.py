"""The database of the task."""

import sqlite3

database = sqlite3.connect("/app/shop.db")
database.executescript(
    """
    CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE orders (customer INTEGER, amount REAL, status TEXT);
    INSERT INTO customers VALUES (1, 'Ada'), (2, 'Bo'), (3, 'Cleo');
    INSERT INTO orders VALUES
        (1, 40.0, 'paid'), (1, 30.0, 'paid'), (2, 500.0, 'cancelled'), (2, 20.0, 'paid'),
        (3, 75.5, 'paid'), (3, 10.0, 'cancelled');
    """
)
database.commit()

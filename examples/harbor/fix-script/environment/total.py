"""The sum of a column."""

import sys

total = 0
with open(sys.argv[1]) as file:
    for line in file.readlines()[1:]:
        total += int(float(line.split(",")[1]))
print(total)

#!/bin/bash
cd /data
{
    echo path,requests,errors
    awk '{ n[$3]++; e[$3] += $4 >= 500 } END { for (p in n) print p "," n[p] "," e[p] }' \
        requests.log | sort -t, -k2,2nr -k1,1
} > report.csv

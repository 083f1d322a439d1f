#!/bin/bash
expected=$'path,requests,errors\n/items,4,1\n/orders,3,2\n/health,1,0'
if [ "$(cat /data/report.csv 2>/dev/null)" = "$expected" ]; then right=1; else right=0; fi
rows=$(tail -n +2 /data/report.csv 2>/dev/null | grep -c .)
if [ "$rows" = "$EXPECTED_ROWS" ]; then complete=1; else complete=0; fi
echo "{\"reward\": $right, \"complete\": $complete}" > /logs/verifier/reward.json

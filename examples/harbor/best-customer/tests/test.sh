#!/bin/bash
if [ "$(tr -d '[:space:]' < /app/answer.txt 2>/dev/null)" = Cleo ]; then
    echo 1.0 > /logs/verifier/reward.txt
else
    echo 0.0 > /logs/verifier/reward.txt
fi

#!/usr/bin/env bash
# @qwen-code/qwen-code 0.24.4: the ripgrep in the package is not executable, so that it is never used.
#
# The package has a program of ripgrep for each platform, and the agent starts it for its grep tool.
# In the package its mode is 0644 and nothing sets another when it is installed: each start fails with
# EACCES, and the tool falls back to a search of its own. All that tells of it is one line on standard
# error of each run.
#
# Seen with @qwen-code/qwen-code 0.24.4, npm 11, Node.js 20, on x86-64:
#   modes of the programs in the package: 644 644 644 644 644
#   started by its own name: status 126
#   started by a copy with mode 755: ripgrep
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm install --silent --no-audit --no-fund --prefix "$work" @qwen-code/qwen-code@0.24.4
vendor=$work/node_modules/@qwen-code/qwen-code/vendor/ripgrep
modes=$(find "$vendor" -name 'rg*' -type f -exec stat -c %a {} + | xargs)
echo "modes of the programs in the package: $modes"
status=0
"$vendor/x64-linux/rg" --version >/dev/null 2>&1 || status=$?
echo "started by its own name: status $status"
install -m 755 "$vendor/x64-linux/rg" "$work/rg"
copy=$("$work/rg" --version | head -1 | cut -d' ' -f1)
echo "started by a copy with mode 755: $copy"
[ "$modes" = "644 644 644 644 644" ] && [ "$status" = 126 ] && [ "$copy" = ripgrep ]

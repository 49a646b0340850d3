#!/usr/bin/env bash
# Submits the daily report, by default that of yesterday (UTC). From cron, at ten past midnight:
#   10 0 * * *  SINK=... REPORT=... /path/to/spark/deploy/daily-report.sh
set -euo pipefail

fail() {
  printf 'deploy/daily-report.sh: %s\n' "$1" >&2
  exit 2
}

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
  cat <<'TEXT'
Usage: SINK=DIR REPORT=DIR deploy/daily-report.sh [YYYY-MM-DD] [ARGUMENT OF daily_report.py]...

Optional in the environment: SPARK_HOME, SPARK_MASTER [default: local[2]].
TEXT
  exit 0
fi
for name in SINK REPORT; do
  [[ -n "${!name:-}" ]] || fail "the environment has no $name (see --help)"
done
day="${1:-$(date -u -d yesterday +%F)}"
shift $(($# > 0))
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
submit="${SPARK_HOME:+$SPARK_HOME/bin/}spark-submit"
command -v "$submit" >/dev/null || fail "there is no $submit: set SPARK_HOME, or PATH"
exec "$submit" --master "${SPARK_MASTER:-local[2]}" "$here/petrel_jobs/daily_report.py" \
  --sink "$SINK" --report "$REPORT" --day "$day" "$@"

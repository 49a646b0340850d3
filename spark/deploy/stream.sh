#!/usr/bin/env bash
# Submits the streaming job of a domain, with Petrel if PETREL_URL is set and without it otherwise.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: deploy/stream.sh DOMAIN [ARGUMENT OF stream.py]...

DOMAIN is smart-city, healthcare or industrial. Further arguments go to the job, for example --queries records,windows.
The command line that runs is printed first; DRY_RUN=1 prints it and stops.

Needed in the environment:
  KAFKA_BROKERS    HOST:PORT,...
  SINK             folder or URL of the Parquet files
  CHECKPOINT       folder or URL of offsets and state; the same one resumes
Optional:
  SPARK_HOME       Spark to use [default: the one of spark-submit in PATH]
  SPARK_MASTER     [default: local[2]]
  KAFKA_JARS       folder with Spark's Kafka connector [default: fetched by spark-submit --packages]
  PETREL_URL       controller, http://HOST:PORT
  PETREL_JAR       the plugin's jar, as jvm/build.sh makes it; needed with PETREL_URL
  PETREL_TOKEN     token of the job at the controller; the plugin reads it from the environment
TEXT
}

fail() {
  printf 'deploy/stream.sh: %s\n' "$1" >&2
  exit 2
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
case "${1:-}" in
  smart-city | healthcare | industrial) domain="$1" ;;
  -h | --help)
    usage
    exit 0
    ;;
  *)
    usage >&2
    fail "expected smart-city, healthcare or industrial first, got '${1:-}'"
    ;;
esac
shift
for name in KAFKA_BROKERS SINK CHECKPOINT; do
  [[ -n "${!name:-}" ]] || fail "the environment has no $name (see --help)"
done
submit="${SPARK_HOME:+$SPARK_HOME/bin/}spark-submit"
command -v "$submit" >/dev/null || fail "there is no $submit: set SPARK_HOME, or PATH"

command_line=("$submit" --master "${SPARK_MASTER:-local[2]}")

# The settings of a file as `--conf name=value`; later files win.
add_settings() {
  local name value
  while read -r name value; do
    [[ -z "$name" || "$name" == \#* ]] || command_line+=(--conf "$name=$value")
  done <"$here/conf/$1.conf"
}
add_settings streaming
add_settings "$domain"

jars=()
if [[ -n "${KAFKA_JARS:-}" ]]; then
  jars=("$KAFKA_JARS"/*.jar)
  [[ -e "${jars[0]}" ]] || fail "KAFKA_JARS is '$KAFKA_JARS', expected a folder with the jars of spark-sql-kafka-0-10"
else
  version="$("$submit" --version 2>&1)"
  spark="$(sed -n 's/.* version \([0-9][0-9.]*\)$/\1/p' <<<"$version" | head -1)"
  scala="$(sed -n 's/^Using Scala version \([0-9]*\.[0-9]*\).*/\1/p' <<<"$version")"
  [[ -n "$spark" && -n "$scala" ]] || fail "'$submit --version' did not say its version; set KAFKA_JARS"
  command_line+=(--packages "org.apache.spark:spark-sql-kafka-0-10_$scala:$spark")
fi
if [[ -n "${PETREL_URL:-}" ]]; then
  [[ -f "${PETREL_JAR:-}" ]] || fail "PETREL_JAR is '${PETREL_JAR:-}', expected the plugin's jar (jvm/build.sh makes it)"
  jars+=("$PETREL_JAR")
  add_settings petrel
  command_line+=(--conf "spark.petrel.url=$PETREL_URL")
fi
((${#jars[@]} == 0)) || command_line+=(--jars "$(IFS=,; printf '%s' "${jars[*]}")")

command_line+=("$here/petrel_jobs/stream.py" --domain "$domain" --brokers "$KAFKA_BROKERS" --sink "$SINK")
command_line+=(--checkpoint "$CHECKPOINT" "$@")

printf '%q ' "${command_line[@]}" >&2
printf '\n' >&2
[[ -n "${DRY_RUN:-}" ]] || exec "${command_line[@]}"

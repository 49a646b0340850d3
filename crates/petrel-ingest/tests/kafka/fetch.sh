#!/bin/sh
# Fetches the jars of a Kafka broker for the tests with Maven, once.
# Usage: fetch.sh [DIRECTORY]   (default: $XDG_CACHE_HOME/petrel/kafka-4.3.1, or below ~/.cache)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/petrel/kafka-4.3.1}
if [ -e "$target/complete" ]; then
    echo "$target"
    exit 0
fi
command -v mvn >/dev/null || { echo "mvn is missing: install Maven 3.8 or later (Debian: apt-get install maven)" >&2; exit 1; }
mkdir -p "$target"
mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$target" -DincludeScope=runtime >&2
touch "$target/complete"
echo "$target"

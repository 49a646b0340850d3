#!/usr/bin/env bash
# Makes a Python environment with Apache Spark, the Kafka connector's jars and what the tests need, once; prints its path.
set -euo pipefail

usage() {
    cat <<'END'
Usage: fetch.sh 3.5.7|4.2.0

Makes ${XDG_CACHE_HOME:-~/.cache}/petrel/spark-VERSION: a Python environment with that pyspark, pytest, pyarrow, kafka-python,
numpy and matplotlib, and below it kafka-jars/ with the four jars of Spark's Kafka connector. Prints the path. Does nothing
when all is there. Needs Python 3.11 or later with venv, Maven, Java 17, and PyPI and a Maven repository the first time.
END
}

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    3.5.7) scala=2.12 ;;
    4.2.0) scala=2.13 ;;
    *) echo "fetch.sh: the Spark version is '${1:-}', expected 3.5.7 or 4.2.0" >&2; usage >&2; exit 2 ;;
esac
version=$1
here=$(cd "$(dirname "$0")" && pwd)
target=${XDG_CACHE_HOME:-$HOME/.cache}/petrel/spark-$version
pom=$here/testbed/maven/spark-$version/pom.xml
packages=("pyspark==$version" pytest==9.2.0 pyarrow==26.0.1 kafka-python==3.0.12 numpy==2.4.6 matplotlib==3.11.2)

# What the environment was made from: another list or another pom makes it again.
recipe=$({ printf '%s\n' "${packages[@]}"; cat "$pom"; } | sha256sum | cut -d ' ' -f 1)
is_complete() { [[ "$(cat "$target/complete" 2>/dev/null)" == "$recipe" ]]; }
if is_complete; then
    echo "$target"
    exit 0
fi

need() { command -v "$1" >/dev/null || { echo "fetch.sh: $1 is missing: $2" >&2; exit 1; }; }
need python3 "install Python 3.11 or later (Debian: apt-get install python3-venv)"
need mvn "install Maven 3.8 or later (Debian: apt-get install maven)"
need java "install Java 17 or later (Debian: apt-get install openjdk-17-jdk-headless)"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "fetch.sh: $(python3 --version) is too old, expected Python 3.11 or later" >&2; exit 1; }
python3 -c 'import ensurepip' 2>/dev/null ||
    { echo "fetch.sh: Python's venv is missing (Debian: apt-get install python3-venv)" >&2; exit 1; }

mkdir -p "$(dirname "$target")"
exec 9>"$target.lock"
flock 9
if is_complete; then
    echo "$target"
    exit 0
fi
rm -f "$target/complete"
[[ -x "$target/bin/python" ]] || python3 -m venv "$target" >&2
"$target/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" >&2
fetched=$target/kafka-jars.new
rm -rf "$fetched"
mkdir "$fetched"
mvn -q -B -f "$pom" dependency:copy-dependencies -DoutputDirectory="$fetched/all" -DincludeScope=runtime >&2
# The other dependencies are in pyspark/jars already, some of them in another version.
for jar in "spark-sql-kafka-0-10_$scala-" "spark-token-provider-kafka-0-10_$scala-" kafka-clients- commons-pool2-; do
    mv "$fetched/all/$jar"*.jar "$fetched/"
done
rm -rf "$fetched/all" "$target/kafka-jars"
mv "$fetched" "$target/kafka-jars"
echo "$recipe" >"$target/complete"
echo "$target"

#!/bin/sh
# Builds the Spark plugin and prints the path of each jar: jvm/build.sh [2.12|2.13|all]
# 2.12 is for Spark 3.5, 2.13 for Spark 4; without an argument both are built.
set -eu

cd "$(dirname "$0")/petrel-spark"

build() {
    mvn -q -B -P "$2" -DskipTests package >&2
    ls "$PWD"/target/petrel-spark_"$1"-*.jar
}

case "${1:-all}" in
    2.12) build 2.12 spark-3.5 ;;
    2.13) build 2.13 spark-4 ;;
    all)
        build 2.12 spark-3.5
        build 2.13 spark-4
        ;;
    *)
        echo "build.sh: expected 2.12 (Spark 3.5), 2.13 (Spark 4) or all, got '$1'" >&2
        exit 2
        ;;
esac

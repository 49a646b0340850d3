package io.petrel.spark.telemetry;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.streaming.StreamingQueryProgress;

/**
 * What did the query itself measure? A job may call {@code observe("petrel...", ...)} with any of the columns {@code event_ms}
 * (quantiles of the event time, milliseconds), {@code records}, {@code dead_letter}, {@code late} and {@code alerts}.
 */
final class Observed {
  private static final String PREFIX = "petrel";

  private final Row row;

  private Observed(Row row) {
    this.row = row;
  }

  /** The observation whose name starts with {@code petrel}; one without columns where there is none. */
  static Observed in(StreamingQueryProgress progress) {
    return new Observed(
        progress.observedMetrics().entrySet().stream()
            .filter(observation -> observation.getKey().startsWith(PREFIX))
            .map(Map.Entry::getValue)
            .findFirst()
            .orElse(null));
  }

  /** Quantiles of the event time from least to greatest; empty where not measured. */
  List<? extends Number> eventTimesMs() {
    int column = column("event_ms");
    return column < 0 ? List.of() : row.<Long>getList(column);
  }

  /** Records that entered the sink; {@code otherwise} where not measured. */
  long records(long otherwise) {
    return count("records", otherwise);
  }

  long deadLetter() {
    return count("dead_letter", 0);
  }

  /** Records too late for their window; {@code otherwise} where not measured. */
  long late(long otherwise) {
    return count("late", otherwise);
  }

  long alerts() {
    return count("alerts", 0);
  }

  private long count(String name, long otherwise) {
    int column = column(name);
    return column < 0 ? otherwise : ((Number) row.get(column)).longValue();
  }

  private int column(String name) {
    if (row == null) {
      return -1;
    }
    int column = Arrays.asList(row.schema().fieldNames()).indexOf(name);
    return column < 0 || row.isNullAt(column) ? -1 : column;
  }
}

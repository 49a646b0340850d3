package io.petrel.spark.telemetry;

import io.petrel.spark.protocol.BatchReport;
import io.petrel.spark.protocol.QueryStatus;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import java.util.function.Function;
import java.util.stream.Stream;
import org.apache.spark.sql.streaming.StreamingQueryProgress;

/** How do the streaming queries of the application get on? Safe for use by several threads. */
public final class Queries {
  private static final int MOST_QUERIES = 64;
  private static final int MOST_BATCHES = 600;

  private final Function<UUID, RunningQuery> running;
  private final Map<UUID, Query> queries = new LinkedHashMap<>();
  private final Unacknowledged<BatchReport> batches = new Unacknowledged<>(MOST_BATCHES);
  private long mostCommitted;

  /** The queries of this application. */
  public Queries() {
    this(StreamExecutions::find);
  }

  /** Queries that {@code running} finds by their identity, or does not (null). */
  Queries(Function<UUID, RunningQuery> running) {
    this.running = running;
  }

  /**
   * All queries at one moment.
   *
   * @param statuses each of them
   * @param lagRecords records waiting, of the query with the most
   * @param committedRecords records committed since the driver started, of the query with the most
   * @param triggerMs trigger interval, of the query with the longest
   * @param watermarkMs watermark of the query that is furthest behind, or null
   */
  public record Overview(
      List<QueryStatus> statuses, long lagRecords, long committedRecords, long triggerMs, Long watermarkMs) {}

  synchronized void started(UUID id, String name) {
    queries.put(id, new Query(name == null ? id.toString() : name));
    if (queries.size() > MOST_QUERIES) {
      queries.remove(queries.keySet().iterator().next());
    }
  }

  synchronized void progressed(StreamingQueryProgress progress, BatchTasks tasks) {
    Query query = queries.get(progress.id());
    if (query == null) {
      return;
    }
    BatchReport report = query.progressed(progress, tasks);
    if (report != null) {
      batches.add(report);
    }
    mostCommitted = Math.max(mostCommitted, query.committed());
  }

  synchronized void ended(UUID id) {
    queries.remove(id);
  }

  /** Batches that the controller has not acknowledged. */
  public Unacknowledged<BatchReport> batches() {
    return batches;
  }

  /** The queries at {@code nowMs}. */
  public synchronized Overview overview(long nowMs) {
    List<QueryStatus> statuses = new ArrayList<>();
    long mostLag = 0;
    long triggerMs = 0;
    for (Map.Entry<UUID, Query> entry : queries.entrySet()) {
      RunningQuery now = running.apply(entry.getKey());
      Map<String, Long> lag = now == null ? new TreeMap<>() : now.lag();
      statuses.add(entry.getValue().status(lag, nowMs));
      mostLag = Math.max(mostLag, lag.values().stream().mapToLong(Long::longValue).sum());
      triggerMs = Math.max(triggerMs, now == null ? 0 : now.triggerMs());
    }
    Long watermarkMs =
        queries.values().stream()
            .flatMap(query -> Stream.ofNullable(query.watermarkMs()))
            .min(Long::compare)
            .orElse(null);
    return new Overview(statuses, mostLag, mostCommitted, triggerMs, watermarkMs);
  }
}

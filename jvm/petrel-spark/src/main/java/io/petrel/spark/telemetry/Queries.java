package io.petrel.spark.telemetry;

import io.petrel.spark.SparingLog;
import io.petrel.spark.protocol.BatchReport;
import io.petrel.spark.protocol.QueryStatus;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.function.Function;
import java.util.stream.Stream;
import org.apache.spark.sql.streaming.StreamingQueryProgress;

/** How do the streaming queries of the application get on? Safe for use by several threads. */
public final class Queries {
  private static final int MOST_QUERIES = 64;
  private static final int MOST_BATCHES = 600;
  private static final int MOST_COUNTS = 1_000;

  private final SparingLog log;
  private final Function<UUID, RunningQuery> running;
  private final Map<UUID, Query> queries = leastRecentFirst(MOST_QUERIES);

  /** Records committed since the driver started, over all runs of each query. */
  private final Map<UUID, Long> committed = leastRecentFirst(MOST_COUNTS);

  private final Unacknowledged<BatchReport> batches = new Unacknowledged<>(MOST_BATCHES);
  private long mostCommitted;

  /** The queries of this application. */
  public Queries(SparingLog log) {
    this(log, StreamExecutions::find);
  }

  /** Queries that {@code running} finds by their identity, or does not (null). */
  Queries(SparingLog log, Function<UUID, RunningQuery> running) {
    this.log = log;
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

  synchronized void started(UUID id, UUID runId, String name) {
    queries.put(id, new Query(id, runId, name));
  }

  synchronized void progressed(StreamingQueryProgress progress, BatchTasks tasks) {
    Query query = queries.get(progress.id());
    if (query == null || !query.runId().equals(progress.runId())) {
      // The event of its start was lost, or there were too many queries.
      query = new Query(progress.id(), progress.runId(), progress.name());
      queries.put(progress.id(), query);
    }
    BatchReport report = query.progressed(progress, tasks);
    if (report != null) {
      batches.add(report);
      mostCommitted = Math.max(mostCommitted, committed.merge(progress.id(), report.records(), Long::sum));
    }
  }

  /** A run of a query ended; false when another run of it has begun. */
  synchronized boolean ended(UUID id, UUID runId) {
    Query query = queries.get(id);
    if (query != null && !query.runId().equals(runId)) {
      return false;
    }
    queries.remove(id);
    return true;
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
      Query query = entry.getValue();
      Map<String, Long> lag = Map.of();
      try {
        RunningQuery now = running.apply(entry.getKey());
        if (now != null) {
          triggerMs = Math.max(triggerMs, now.triggerMs());
          lag = query.lag(now);
        }
      } catch (RuntimeException | LinkageError surprise) {
        log.warn("lag", "could not ask query '" + query.name() + "' for its offsets", surprise);
      }
      statuses.add(query.status(lag, nowMs));
      mostLag = Math.max(mostLag, lag.values().stream().mapToLong(Long::longValue).sum());
    }
    Long watermarkMs =
        queries.values().stream()
            .flatMap(query -> Stream.ofNullable(query.watermarkMs()))
            .min(Long::compare)
            .orElse(null);
    return new Overview(statuses, mostLag, mostCommitted, triggerMs, watermarkMs);
  }

  /** A map of at most {@code most} entries: the one that was not used for the longest time goes first. */
  private static <V> Map<UUID, V> leastRecentFirst(int most) {
    return new LinkedHashMap<>(16, 0.75f, true) {
      @Override
      protected boolean removeEldestEntry(Map.Entry<UUID, V> eldest) {
        return size() > most;
      }
    };
  }
}

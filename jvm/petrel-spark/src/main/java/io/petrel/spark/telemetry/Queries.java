package io.petrel.spark.telemetry;

import io.petrel.spark.protocol.BatchReport;
import io.petrel.spark.protocol.QueryStatus;
import java.time.Instant;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import java.util.stream.Stream;
import org.apache.spark.sql.streaming.SourceProgress;
import org.apache.spark.sql.streaming.StateOperatorProgress;
import org.apache.spark.sql.streaming.StreamingQueryProgress;

/** How do the streaming queries of the application get on? Safe for use by several threads. */
public final class Queries {
  private static final int MOST_QUERIES = 64;
  private static final int MOST_BATCHES = 600;

  private final Map<UUID, Query> queries = new LinkedHashMap<>();
  private final Unacknowledged<BatchReport> batches = new Unacknowledged<>(MOST_BATCHES);
  private long mostCommitted;

  private static final class Query {
    String name;
    Double lastTriggerMs;
    long committed;
    Long watermarkMs;
    Map<String, Long> lag = Map.of();
    StreamingQueryProgress progress;
    String latencySource = "";
  }

  synchronized void progressed(StreamingQueryProgress progress, BatchTasks tasks) {
    Query query = queries.computeIfAbsent(progress.id(), unused -> new Query());
    if (queries.size() > MOST_QUERIES) {
      queries.remove(queries.keySet().iterator().next());
    }
    query.name = progress.name() == null ? progress.id().toString() : progress.name();
    query.progress = progress;
    query.watermarkMs = eventTimeMs(progress, "watermark");
    query.lag = lag(progress);
    double triggerMs = Instant.parse(progress.timestamp()).toEpochMilli();
    if (progress.numInputRows() > 0) {
      batches.add(report(query, triggerMs, tasks));
    }
    query.lastTriggerMs = triggerMs;
  }

  synchronized void ended(UUID id) {
    queries.remove(id);
  }

  /** Batches that the controller has not acknowledged. */
  public Unacknowledged<BatchReport> batches() {
    return batches;
  }

  /** Records committed since the driver started, of the query with the most. */
  public synchronized long mostCommitted() {
    return mostCommitted;
  }

  /** Records waiting, of the query with the most. */
  public synchronized long mostLag() {
    return queries.values().stream()
        .mapToLong(query -> query.lag.values().stream().mapToLong(Long::longValue).sum())
        .max()
        .orElse(0);
  }

  /** Watermark of the query that is furthest behind, or null where none has one. */
  public synchronized Long watermarkMs() {
    return queries.values().stream()
        .flatMap(query -> Stream.ofNullable(query.watermarkMs))
        .min(Long::compare)
        .orElse(null);
  }

  /** The queries at {@code nowMs}. */
  public synchronized List<QueryStatus> statuses(long nowMs) {
    List<QueryStatus> statuses = new ArrayList<>();
    for (Query query : queries.values()) {
      long stateRows = 0;
      long stateBytes = 0;
      for (StateOperatorProgress state : query.progress.stateOperators()) {
        stateRows += state.numRowsTotal();
        stateBytes += state.memoryUsedBytes();
      }
      statuses.add(
          new QueryStatus(
              query.name,
              query.progress.inputRowsPerSecond(),
              query.progress.processedRowsPerSecond(),
              query.lag,
              stateRows,
              stateBytes,
              query.watermarkMs == null ? null : (double) (nowMs - query.watermarkMs),
              query.latencySource));
    }
    return statuses;
  }

  private BatchReport report(Query query, double triggerMs, BatchTasks tasks) {
    StreamingQueryProgress progress = query.progress;
    Observed observed = Observed.in(progress);
    long durationMs = progress.durationMs().getOrDefault("triggerExecution", progress.batchDuration());
    double committedMs = triggerMs + durationMs;
    long records = observed.records(progress.numInputRows());
    EventTimes eventTimes = eventTimes(query, observed, triggerMs);
    query.latencySource = eventTimes.source();
    query.committed += records;
    mostCommitted = Math.max(mostCommitted, query.committed);
    return new BatchReport(
        query.name,
        progress.batchId(),
        (long) committedMs,
        records,
        0,
        observed.deadLetter(),
        observed.late(tooLate(progress)),
        observed.alerts(),
        durationMs,
        tasks.figures().cpuMs(),
        tasks.figures().runMs(),
        tasks.tasks(),
        tasks.executors(),
        new TreeMap<>(progress.durationMs()),
        Math.max(0, durationMs - tasks.busyMs()),
        tasks.inputBytes(),
        tasks.figures().shuffleWrittenBytes(),
        LatencyHistogram.of(eventTimes, records, committedMs));
  }

  private static EventTimes eventTimes(Query query, Observed observed, double triggerMs) {
    if (!observed.eventTimesMs().isEmpty()) {
      return EventTimes.observed(observed.eventTimesMs());
    }
    Long leastMs = eventTimeMs(query.progress, "min");
    Long meanMs = eventTimeMs(query.progress, "avg");
    Long greatestMs = eventTimeMs(query.progress, "max");
    if (leastMs != null && meanMs != null && greatestMs != null) {
      return EventTimes.range(leastMs, meanMs, greatestMs);
    }
    return EventTimes.arrival(query.lastTriggerMs == null ? triggerMs : query.lastTriggerMs, triggerMs);
  }

  /** One of the event times that Spark reports for a query with a watermark; null where it does not, or not yet. */
  private static Long eventTimeMs(StreamingQueryProgress progress, String which) {
    String text = progress.eventTime().get(which);
    long timeMs = text == null ? 0 : Instant.parse(text).toEpochMilli();
    return timeMs == 0 ? null : timeMs;
  }

  private static long tooLate(StreamingQueryProgress progress) {
    long records = 0;
    for (StateOperatorProgress state : progress.stateOperators()) {
      records += state.numRowsDroppedByWatermark();
    }
    return records;
  }

  private static Map<String, Long> lag(StreamingQueryProgress progress) {
    Map<String, Long> lag = new TreeMap<>();
    for (SourceProgress source : progress.sources()) {
      Lag.between(source.endOffset(), source.latestOffset()).forEach((partition, records) -> lag.merge(partition, records, Long::sum));
    }
    return lag;
  }
}

package io.petrel.spark.telemetry;

import io.petrel.spark.protocol.BatchReport;
import io.petrel.spark.protocol.QueryStatus;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import org.apache.spark.sql.streaming.StateOperatorProgress;
import org.apache.spark.sql.streaming.StreamingQueryProgress;

/** How does one run of a streaming query get on? Not safe for use by several threads. */
final class Query {
  /** The protocol takes no longer name. */
  private static final int MOST_NAME_BYTES = 256;

  private final UUID runId;
  private final String name;
  private StreamingQueryProgress progress;
  private RunningQuery asked;
  private Map<String, Long> lag = Map.of();
  private Double lastTriggerMs;
  private String latencySource = "";

  /** A query without a name, {@code null}, is called by its identity. */
  Query(UUID id, UUID runId, String name) {
    this.runId = runId;
    this.name = name == null ? id.toString() : cut(name);
  }

  String name() {
    return name;
  }

  UUID runId() {
    return runId;
  }

  /** Takes in a finished batch; null for one without records. */
  BatchReport progressed(StreamingQueryProgress latest, BatchTasks tasks) {
    progress = latest;
    double triggerMs = Instant.parse(latest.timestamp()).toEpochMilli();
    BatchReport report = latest.numInputRows() > 0 ? report(triggerMs, tasks) : null;
    lastTriggerMs = triggerMs;
    return report;
  }

  /** Records per {@code topic/partition} that wait; counted anew only when the offsets are others than the last time. */
  Map<String, Long> lag(RunningQuery now) {
    if (asked == null || now.committed() != asked.committed() || now.latest() != asked.latest()) {
      lag = now.lag();
      asked = now;
    }
    return lag;
  }

  /** Its watermark, or null without one. */
  Long watermarkMs() {
    return eventTimeMs("watermark");
  }

  QueryStatus status(Map<String, Long> lagNow, long nowMs) {
    long stateRows = 0;
    long stateBytes = 0;
    for (StateOperatorProgress state : stateOperators()) {
      stateRows += state.numRowsTotal();
      stateBytes += state.memoryUsedBytes();
    }
    Long watermarkMs = watermarkMs();
    return new QueryStatus(
        name,
        progress == null ? 0.0 : progress.inputRowsPerSecond(),
        progress == null ? 0.0 : progress.processedRowsPerSecond(),
        lagNow,
        stateRows,
        stateBytes,
        watermarkMs == null ? null : (double) (nowMs - watermarkMs),
        latencySource);
  }

  private BatchReport report(double triggerMs, BatchTasks tasks) {
    Observed observed = Observed.in(progress);
    long records = observed.records(progress.numInputRows());
    double durationMs = progress.batchDuration();
    double committedMs = triggerMs + durationMs;
    EventTimes eventTimes = eventTimes(observed, triggerMs);
    latencySource = eventTimes.source();
    return new BatchReport(
        name,
        progress.batchId(),
        (long) committedMs,
        records,
        0,
        observed.deadLetter(),
        observed.late(tooLate()),
        observed.alerts(),
        durationMs,
        tasks.figures().cpuMs(),
        tasks.figures().runMs(),
        tasks.tasks(),
        tasks.executors(),
        new TreeMap<>(progress.durationMs()),
        Math.max(0, durationMs - tasks.busyMs((long) committedMs)),
        tasks.inputBytes(),
        tasks.figures().shuffleWrittenBytes(),
        LatencyHistogram.of(eventTimes, records, committedMs));
  }

  private EventTimes eventTimes(Observed observed, double triggerMs) {
    if (!observed.eventTimesMs().isEmpty()) {
      return EventTimes.observed(observed.eventTimesMs());
    }
    Long leastMs = eventTimeMs("min");
    Long meanMs = eventTimeMs("avg");
    Long greatestMs = eventTimeMs("max");
    if (leastMs != null && meanMs != null && greatestMs != null) {
      return EventTimes.range(leastMs, meanMs, greatestMs);
    }
    return EventTimes.arrival(lastTriggerMs == null ? triggerMs : lastTriggerMs, triggerMs);
  }

  /** One of the event times that Spark reports of a query with a watermark; null where it does not, or not yet. */
  private Long eventTimeMs(String which) {
    String text = progress == null ? null : progress.eventTime().get(which);
    long timeMs = text == null ? 0 : Instant.parse(text).toEpochMilli();
    return timeMs == 0 ? null : timeMs;
  }

  private long tooLate() {
    long records = 0;
    for (StateOperatorProgress state : stateOperators()) {
      records += state.numRowsDroppedByWatermark();
    }
    return records;
  }

  private static String cut(String name) {
    byte[] utf8 = name.getBytes(StandardCharsets.UTF_8);
    if (utf8.length <= MOST_NAME_BYTES) {
      return name;
    }
    int end = MOST_NAME_BYTES;
    // Not within a character: its bytes after the first are 10xxxxxx.
    while ((utf8[end] & 0xC0) == 0x80) {
      end--;
    }
    return new String(utf8, 0, end, StandardCharsets.UTF_8);
  }

  private StateOperatorProgress[] stateOperators() {
    return progress == null ? new StateOperatorProgress[0] : progress.stateOperators();
  }
}

package io.petrel.spark.telemetry;

import io.petrel.spark.protocol.BatchReport;
import io.petrel.spark.protocol.QueryStatus;
import java.time.Instant;
import java.util.Map;
import java.util.TreeMap;
import org.apache.spark.sql.streaming.StateOperatorProgress;
import org.apache.spark.sql.streaming.StreamingQueryProgress;

/** How does one streaming query get on? Not safe for use by several threads. */
final class Query {
  private final String name;
  private StreamingQueryProgress progress;
  private long committed;
  private Double lastTriggerMs;
  private String latencySource = "";

  Query(String name) {
    this.name = name;
  }

  /** Takes in a finished batch; null for one without records. */
  BatchReport progressed(StreamingQueryProgress latest, BatchTasks tasks) {
    progress = latest;
    double triggerMs = Instant.parse(latest.timestamp()).toEpochMilli();
    BatchReport report = latest.numInputRows() > 0 ? report(triggerMs, tasks) : null;
    lastTriggerMs = triggerMs;
    return report;
  }

  /** Records committed since the driver started. */
  long committed() {
    return committed;
  }

  /** Its watermark, or null without one. */
  Long watermarkMs() {
    return eventTimeMs("watermark");
  }

  QueryStatus status(Map<String, Long> lag, long nowMs) {
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
        lag,
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
    committed += records;
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
        Math.max(0, durationMs - tasks.busyMs()),
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

  private StateOperatorProgress[] stateOperators() {
    return progress == null ? new StateOperatorProgress[0] : progress.stateOperators();
  }
}

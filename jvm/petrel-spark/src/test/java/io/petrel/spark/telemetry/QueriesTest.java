package io.petrel.spark.telemetry;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.petrel.spark.ScalaLists;
import io.petrel.spark.protocol.BatchReport;
import io.petrel.spark.protocol.QueryStatus;
import io.petrel.spark.protocol.TaskFigures;
import java.time.Instant;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.catalyst.expressions.GenericRowWithSchema;
import org.apache.spark.sql.streaming.SinkProgress;
import org.apache.spark.sql.streaming.SourceProgress;
import org.apache.spark.sql.streaming.StateOperatorProgress;
import org.apache.spark.sql.streaming.StreamingQueryProgress;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class QueriesTest {
  private static final UUID ID = new UUID(1, 2);
  private static final long TRIGGER_MS = 1_700_000_000_000L;
  private static final long DURATION_MS = 400;

  private final Queries queries = new Queries(unused -> null);

  @BeforeEach
  void start() {
    queries.started(ID, "records");
  }

  @Test
  void aBatchIsReportedWithItsTasks() {
    BatchTasks tasks = new BatchTasks();
    tasks.started("0", TRIGGER_MS + 100);
    tasks.ended(new TaskFigures(1, 0, 50, 40, 0, 0, 9, 0, 0), 0, TRIGGER_MS + 160);
    queries.progressed(progress(TRIGGER_MS, 10, Map.of(), Map.of()), tasks);
    BatchReport batch = onlyBatch();
    assertEquals("records", batch.query());
    assertEquals(TRIGGER_MS + DURATION_MS, batch.committedMs());
    assertEquals(10, batch.records());
    assertEquals(340, batch.overheadMs());
    assertEquals(50, batch.taskRunMs());
    assertEquals(40, batch.taskCpuMs());
    assertEquals(9, batch.shuffleBytes());
    assertEquals(Map.of("triggerExecution", DURATION_MS), batch.partsMs());
  }

  @Test
  void aBatchWithoutRecordsIsNotReported() {
    queries.progressed(progress(TRIGGER_MS, 0, Map.of(), Map.of()), new BatchTasks());
    assertEquals(List.of(), queries.batches().all().entries());
    assertEquals(1, queries.overview(TRIGGER_MS).statuses().size());
  }

  @Test
  void whatTheQueryObservedCounts() {
    StructType columns =
        new StructType()
            .add("records", DataTypes.LongType)
            .add("dead_letter", DataTypes.LongType)
            .add("alerts", DataTypes.LongType)
            .add("event_ms", DataTypes.createArrayType(DataTypes.LongType));
    Object times = ScalaLists.toScala(List.of(TRIGGER_MS, TRIGGER_MS));
    Row row = new GenericRowWithSchema(new Object[] {8L, 2L, 1L, times}, columns);
    queries.progressed(progress(TRIGGER_MS, 10, Map.of(), Map.of("petrel_records", row)), new BatchTasks());
    BatchReport batch = onlyBatch();
    assertEquals(8, batch.records());
    assertEquals(2, batch.deadLetter());
    assertEquals(1, batch.alerts());
    // All of them took the 400 ms of the batch: 10 ms * 1.08^48 = 402 ms.
    assertEquals(8, batch.latencyCounts()[48]);
    assertEquals("observed", status().latencySource());
  }

  @Test
  void anObservationOfNothingIsNoObservation() {
    StructType columns =
        new StructType()
            .add("records", DataTypes.LongType)
            .add("event_ms", DataTypes.createArrayType(DataTypes.LongType));
    Row row = new GenericRowWithSchema(new Object[] {0L, null}, columns);
    queries.progressed(progress(TRIGGER_MS, 10, Map.of(), Map.of("petrel", row)), new BatchTasks());
    assertEquals(0, onlyBatch().records());
    assertEquals("arrival", status().latencySource());
  }

  @Test
  void aQueryWithAWatermarkKnowsTheRangeOfItsEventTimes() {
    Map<String, String> eventTime =
        Map.of(
            "min", Instant.ofEpochMilli(TRIGGER_MS - 1_000).toString(),
            "avg", Instant.ofEpochMilli(TRIGGER_MS - 500).toString(),
            "max", Instant.ofEpochMilli(TRIGGER_MS).toString(),
            "watermark", Instant.ofEpochMilli(TRIGGER_MS - 3_000).toString());
    queries.progressed(progress(TRIGGER_MS, 10, eventTime, Map.of()), new BatchTasks());
    assertEquals("event-time-range", status().latencySource());
    assertEquals(TRIGGER_MS - 3_000, queries.overview(TRIGGER_MS).watermarkMs());
    assertEquals(3_250.0, queries.overview(TRIGGER_MS + 250).statuses().get(0).watermarkDelayMs());
    assertEquals(10, Arrays.stream(onlyBatch().latencyCounts()).sum());
  }

  @Test
  void theFirstWatermarkOfAQueryIsNone() {
    Map<String, String> eventTime = Map.of("watermark", "1970-01-01T00:00:00.000Z");
    queries.progressed(progress(TRIGGER_MS, 10, eventTime, Map.of()), new BatchTasks());
    assertNull(queries.overview(TRIGGER_MS).watermarkMs());
  }

  @Test
  void withoutEventTimesRecordsArriveBetweenTriggers() {
    queries.progressed(progress(TRIGGER_MS - 1_000, 10, Map.of(), Map.of()), new BatchTasks());
    queries.batches().acknowledge(queries.batches().all());
    queries.progressed(progress(TRIGGER_MS, 1_000, Map.of(), Map.of()), new BatchTasks());
    long[] counts = onlyBatch().latencyCounts();
    // Latency is spread evenly from 400 to 1400 ms: 10 ms * 1.08^57 = 804 ms is 40.4 % of the way.
    long within = Arrays.stream(counts, 0, 58).sum();
    assertTrue(within > 395 && within < 415, "within 804 ms: " + within);
  }

  @Test
  void aQueryThatEndedIsNotShownButItsRecordsStayCommitted() {
    queries.progressed(progress(TRIGGER_MS, 10, Map.of(), Map.of()), new BatchTasks());
    queries.ended(ID);
    Queries.Overview overview = queries.overview(TRIGGER_MS);
    assertEquals(List.of(), overview.statuses());
    assertEquals(10, overview.committedRecords());
  }

  private BatchReport onlyBatch() {
    List<BatchReport> batches = queries.batches().all().entries();
    assertEquals(1, batches.size());
    return batches.get(0);
  }

  private QueryStatus status() {
    return queries.overview(TRIGGER_MS).statuses().get(0);
  }

  private static StreamingQueryProgress progress(
      long triggerMs, long records, Map<String, String> eventTime, Map<String, Row> observed) {
    SourceProgress source = new SourceProgress("source", null, null, null, records, 10.0, 20.0, Map.of());
    return new StreamingQueryProgress(
        ID,
        new UUID(3, 4),
        "records",
        Instant.ofEpochMilli(triggerMs).toString(),
        7,
        DURATION_MS,
        Map.of("triggerExecution", DURATION_MS),
        eventTime,
        new StateOperatorProgress[0],
        new SourceProgress[] {source},
        new SinkProgress("sink", records, Map.of()),
        observed);
  }
}

package io.petrel.spark.telemetry;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.petrel.spark.ScalaLists;
import io.petrel.spark.SparingLog;
import io.petrel.spark.protocol.BatchReport;
import io.petrel.spark.protocol.QueryStatus;
import io.petrel.spark.protocol.TaskFigures;
import java.time.Instant;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.function.Function;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.catalyst.expressions.GenericRowWithSchema;
import org.apache.spark.sql.connector.read.streaming.Offset;
import org.apache.spark.sql.connector.read.streaming.SparkDataStream;
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
  private static final UUID RUN = new UUID(3, 4);
  private static final UUID NEXT_RUN = new UUID(5, 6);
  private static final long TRIGGER_MS = 1_700_000_000_000L;
  private static final long DURATION_MS = 400;

  private final Queries queries = new Queries(new SparingLog(), unused -> null);

  @BeforeEach
  void start() {
    queries.started(ID, RUN, "records");
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
    assertTrue(queries.ended(ID, RUN));
    Queries.Overview overview = queries.overview(TRIGGER_MS);
    assertEquals(List.of(), overview.statuses());
    assertEquals(10, overview.committedRecords());
  }

  @Test
  void recordsAreCountedOverTheRunsOfAQuery() {
    queries.progressed(progress(TRIGGER_MS, 10, Map.of(), Map.of()), new BatchTasks());
    queries.ended(ID, RUN);
    queries.started(ID, NEXT_RUN, "records");
    queries.progressed(progress(ID, NEXT_RUN, TRIGGER_MS, 5, Map.of(), Map.of()), new BatchTasks());
    assertEquals(15, queries.overview(TRIGGER_MS).committedRecords());
  }

  @Test
  void theEndOfAnEarlierRunLeavesTheNextOne() {
    queries.started(ID, NEXT_RUN, "records");
    assertFalse(queries.ended(ID, RUN));
    assertEquals("records", status().query());
    assertTrue(queries.ended(ID, NEXT_RUN));
    assertEquals(List.of(), queries.overview(TRIGGER_MS).statuses());
  }

  @Test
  void aQueryWhoseStartWasNotHeardIsTakenUp() {
    UUID unknown = new UUID(7, 8);
    queries.progressed(progress(unknown, RUN, TRIGGER_MS, 10, Map.of(), Map.of()), new BatchTasks());
    assertEquals(10, onlyBatch().records());
    assertEquals(2, queries.overview(TRIGGER_MS).statuses().size());
  }

  @Test
  void ofMoreThan64QueriesThoseThatProgressAreShown() {
    for (int query = 0; query < 63; query++) {
      queries.started(new UUID(9, query), RUN, "query " + query);
    }
    queries.progressed(progress(TRIGGER_MS, 10, Map.of(), Map.of()), new BatchTasks());
    queries.started(new UUID(9, 63), RUN, "query 63");
    List<String> names = queries.overview(TRIGGER_MS).statuses().stream().map(QueryStatus::query).toList();
    assertEquals(64, names.size());
    assertTrue(names.contains("records"), names.toString());
    assertFalse(names.contains("query 0"), names.toString());
  }

  @Test
  void aLongNameIsCutBetweenCharacters() {
    queries.ended(ID, RUN);
    queries.started(ID, RUN, "a" + "ä".repeat(200));
    assertEquals("a" + "ä".repeat(127), status().query());
  }

  @Test
  void aQueryThatCannotBeAskedHasNoLag() {
    assertEquals(Map.of(), lagWhen(unused -> { throw new NoClassDefFoundError("moved"); }));
    assertEquals(Map.of(), lagWhen(unused -> { throw new IllegalStateException("no offset"); }));
  }

  @Test
  void lagIsCountedAnewWhenOffsetsChange() {
    CountedOffset committed = new CountedOffset("{\"raw\":{\"0\":10}}");
    CountedOffset latest = new CountedOffset("{\"raw\":{\"0\":15}}");
    SparkDataStream source = new NoSource();
    RunningQuery[] now = {new RunningQuery(null, offsets(source, committed), offsets(source, latest))};
    Queries asked = new Queries(new SparingLog(), unused -> now[0]);
    asked.started(ID, RUN, "records");
    assertEquals(5, asked.overview(TRIGGER_MS).lagRecords());
    now[0] = new RunningQuery(null, now[0].committed(), now[0].latest());
    assertEquals(5, asked.overview(TRIGGER_MS).lagRecords());
    assertEquals(1, latest.told);
    now[0] = new RunningQuery(null, offsets(source, latest), now[0].latest());
    assertEquals(0, asked.overview(TRIGGER_MS).lagRecords());
  }

  /** An offset that counts how often it was asked. */
  private static final class CountedOffset extends Offset {
    private final String json;
    private int told;

    CountedOffset(String json) {
      this.json = json;
    }

    @Override
    public String json() {
      told++;
      return json;
    }
  }

  private static final class NoSource implements SparkDataStream {
    @Override
    public Offset initialOffset() {
      throw new UnsupportedOperationException();
    }

    @Override
    public Offset deserializeOffset(String json) {
      throw new UnsupportedOperationException();
    }

    @Override
    public void commit(Offset end) {}

    @Override
    public void stop() {}
  }

  private static scala.collection.immutable.Map<SparkDataStream, Offset> offsets(SparkDataStream source, Offset offset) {
    return new scala.collection.immutable.Map.Map1<>(source, offset);
  }

  private static Map<String, Long> lagWhen(Function<UUID, RunningQuery> asked) {
    Queries asking = new Queries(new SparingLog(), asked);
    asking.started(ID, RUN, "records");
    return asking.overview(TRIGGER_MS).statuses().get(0).lag();
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
    return progress(ID, RUN, triggerMs, records, eventTime, observed);
  }

  private static StreamingQueryProgress progress(
      UUID id, UUID runId, long triggerMs, long records, Map<String, String> eventTime, Map<String, Row> observed) {
    SourceProgress source = new SourceProgress("source", null, null, null, records, 10.0, 20.0, Map.of());
    return new StreamingQueryProgress(
        id,
        runId,
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

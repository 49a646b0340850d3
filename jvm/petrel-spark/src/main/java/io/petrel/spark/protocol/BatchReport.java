package io.petrel.spark.protocol;

import java.util.Map;

/**
 * One committed micro-batch.
 *
 * @param query name of its query, or the query's identity where it has none
 * @param batch number of the batch within its query
 * @param committedMs when it was committed, milliseconds since the Unix epoch
 * @param records records that entered the sink
 * @param duplicates always 0: Spark's sinks do not count repeats
 * @param deadLetter records that the query observed as malformed
 * @param late records too late for their window
 * @param alerts alerts that the query observed
 * @param durationMs wall time from planning to commit
 * @param taskCpuMs CPU time of its tasks on executors
 * @param taskRunMs wall time of its tasks on executors
 * @param tasks tasks that it ran
 * @param executors executors that ran them
 * @param partsMs parts of {@code durationMs} as Spark names them
 * @param overheadMs wall time in which none of its tasks ran
 * @param inputBytes bytes that its tasks read, where the source counts them
 * @param shuffleBytes shuffle bytes that its tasks wrote
 * @param latencyCounts records per latency bucket, see {@code LatencyHistogram}
 */
public record BatchReport(
    String query,
    long batch,
    long committedMs,
    long records,
    long duplicates,
    long deadLetter,
    long late,
    long alerts,
    double durationMs,
    double taskCpuMs,
    double taskRunMs,
    int tasks,
    int executors,
    Map<String, Long> partsMs,
    double overheadMs,
    long inputBytes,
    long shuffleBytes,
    long[] latencyCounts) {}

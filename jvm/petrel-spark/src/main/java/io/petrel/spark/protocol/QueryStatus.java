package io.petrel.spark.protocol;

import java.util.Map;

/**
 * Progress of one streaming query.
 *
 * @param query name, or its identity where it has none
 * @param inputRate records/s into it
 * @param processedRate records/s through it
 * @param lag records waiting per partition, {@code topic/partition}
 * @param stateRows rows in its state store
 * @param stateBytes memory of its state store
 * @param watermarkDelayMs how far its watermark is behind the clock, or null without a watermark
 * @param latencySource where the latency histograms of its batches come from
 */
public record QueryStatus(
    String query,
    double inputRate,
    double processedRate,
    Map<String, Long> lag,
    long stateRows,
    long stateBytes,
    Double watermarkDelayMs,
    String latencySource) {

  /** Rates of Spark's first batch are not numbers, which JSON cannot carry: they count as 0. */
  public QueryStatus {
    inputRate = Double.isFinite(inputRate) ? inputRate : 0.0;
    processedRate = Double.isFinite(processedRate) ? processedRate : 0.0;
  }
}

package io.petrel.spark.telemetry;

/**
 * How late were the records of a batch when it was committed?
 *
 * <p>Counts over the buckets of the protocol: upper bounds of 10 ms times 1.08 to the power of 0 to 119, and one bucket above.
 */
final class LatencyHistogram {
  private static final int BOUNDS = 120;
  private static final double FIRST_BOUND_MS = 10.0;
  private static final double STEP = 1.08;

  private LatencyHistogram() {}

  /** Counts that add up to {@code records}, for records with these event times that were committed at {@code committedMs}. */
  static long[] of(EventTimes eventTimes, long records, double committedMs) {
    long[] counts = new long[BOUNDS + 1];
    long counted = 0;
    for (int bucket = 0; bucket < BOUNDS; bucket++) {
      double boundMs = FIRST_BOUND_MS * Math.pow(STEP, bucket);
      double shareWithin = 1.0 - eventTimes.shareBefore(committedMs - boundMs);
      // Rounding the running total instead of each bucket keeps the sum exact.
      long within = Math.round(shareWithin * records);
      counts[bucket] = within - counted;
      counted = within;
    }
    counts[BOUNDS] = records - counted;
    return counts;
  }
}

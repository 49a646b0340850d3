package io.petrel.spark.telemetry;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;

class LatencyHistogramTest {
  private static final double STEP = 1.08;

  @Test
  void recordsOfOneMomentFallIntoOneBucket() {
    // 10 ms * 1.08^30 = 100.6 ms is the first bound that is not below 100 ms.
    long[] counts = LatencyHistogram.of(EventTimes.arrival(900, 900), 70, 1_000);
    assertEquals(70, counts[30]);
    assertEquals(70, Arrays.stream(counts).sum());
  }

  @Test
  void recordsOfTheFutureAreNotLate() {
    assertEquals(5, LatencyHistogram.of(EventTimes.arrival(1_500, 1_600), 5, 1_000)[0]);
  }

  @Test
  void recordsThatAreLaterThanTheLastBoundHaveABucketOfTheirOwn() {
    assertEquals(5, LatencyHistogram.of(EventTimes.arrival(0, 1), 5, 200_000)[120]);
  }

  @Test
  void quantilesGiveTheLatenciesTheyWereMadeOf() {
    long seed = 17;
    Random random = new Random(seed);
    double committedMs = 1_000_000;
    double[] latenciesMs = random.doubles(20_000).map(u -> 200 * Math.exp(2 * u * u)).sorted().toArray();
    List<Long> quantilesMs = new ArrayList<>();
    for (int percent = 100; percent >= 0; percent--) {
      quantilesMs.add(Math.round(committedMs - latenciesMs[(latenciesMs.length - 1) * percent / 100]));
    }
    long[] counts = LatencyHistogram.of(EventTimes.observed(quantilesMs), latenciesMs.length, committedMs);
    assertEquals(latenciesMs.length, Arrays.stream(counts).sum());
    for (double quantile : new double[] {0.05, 0.5, 0.95, 0.99}) {
      double expectedMs = latenciesMs[(int) (quantile * latenciesMs.length)];
      double ratio = quantileMs(counts, quantile) / expectedMs;
      assertTrue(ratio > 1 / STEP && ratio < STEP * STEP, "seed " + seed + ", quantile " + quantile + ": " + ratio);
    }
  }

  @Test
  void everyRecordIsCountedOnce() {
    for (long seed = 0; seed < 200; seed++) {
      Random random = new Random(seed);
      double leastMs = random.nextInt(100_000);
      double meanMs = leastMs + random.nextInt(1_000);
      double greatestMs = meanMs + random.nextInt(1_000);
      long records = random.nextInt(1_000);
      long[] counts = LatencyHistogram.of(EventTimes.range(leastMs, meanMs, greatestMs), records, 100_000);
      assertEquals(records, Arrays.stream(counts).sum(), "seed " + seed);
      assertTrue(Arrays.stream(counts).allMatch(count -> count >= 0), "seed " + seed);
    }
  }

  /** Upper bound of the bucket that holds the quantile, as the controller reads it. */
  private static double quantileMs(long[] counts, double quantile) {
    long rank = (long) Math.ceil(quantile * Arrays.stream(counts).sum());
    int bucket = 0;
    for (long seen = counts[0]; seen < rank; seen += counts[bucket]) {
      bucket++;
    }
    return 10.0 * Math.pow(STEP, bucket);
  }
}

package io.petrel.spark.telemetry;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.List;
import org.junit.jupiter.api.Test;

class EventTimesTest {
  @Test
  void aRangeKeepsItsMean() {
    EventTimes times = EventTimes.range(1_000, 1_200, 2_000);
    double mean = 0;
    for (int ms = 1_000; ms < 2_000; ms++) {
      mean += (ms + 0.5) * (times.shareBefore(ms + 1) - times.shareBefore(ms));
    }
    assertEquals(1_200, mean, 0.001);
  }

  @Test
  void aRangeOfOneMomentIsThatMoment() {
    EventTimes times = EventTimes.range(1_000, 1_000, 1_000);
    assertEquals(0.0, times.shareBefore(1_000));
    assertEquals(1.0, times.shareBefore(1_001));
  }

  @Test
  void equalQuantilesAreRecordsOfOneMoment() {
    EventTimes times = EventTimes.observed(List.of(0L, 100L, 100L, 100L, 200L));
    assertEquals(0.25, times.shareBefore(100));
    assertEquals(0.75, times.shareBefore(100.000001), 0.000001);
    assertEquals(0.875, times.shareBefore(150));
  }

  @Test
  void oneQuantileIsAllRecords() {
    EventTimes times = EventTimes.observed(List.of(50L));
    assertEquals(0.0, times.shareBefore(50));
    assertEquals(1.0, times.shareBefore(51));
  }
}

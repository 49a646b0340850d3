package io.petrel.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.stream.LongStream;
import org.junit.jupiter.api.Test;

class BackoffTest {
  @Test
  void pausesGrowToFiveSecondsAndNoFurther() {
    Backoff backoff = new Backoff(1_000);
    long[] pauses =
        LongStream.range(0, 40)
            .map(
                failure -> {
                  backoff.failed();
                  return backoff.pauseMs();
                })
            .toArray();
    assertEquals(1_000, pauses[0]);
    assertEquals(2_000, pauses[1]);
    assertEquals(4_000, pauses[2]);
    assertEquals(5_000, pauses[3]);
    assertEquals(5_000, pauses[39]);
  }

  @Test
  void anAnswerEndsThem() {
    Backoff backoff = new Backoff(1_000);
    backoff.failed();
    backoff.failed();
    backoff.answered();
    assertEquals(1_000, backoff.pauseMs());
  }

  @Test
  void heartbeatsThatAreSeldomStaySo() {
    Backoff backoff = new Backoff(30_000);
    backoff.failed();
    backoff.failed();
    assertEquals(30_000, backoff.pauseMs());
  }
}

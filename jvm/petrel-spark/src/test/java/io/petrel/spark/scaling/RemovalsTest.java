package io.petrel.spark.scaling;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.List;
import org.junit.jupiter.api.Test;

class RemovalsTest {
  private static final Candidate OLD_AND_FREE = new Candidate("0", true, 0, 100);
  private static final Candidate YOUNG_AND_FREE = new Candidate("3", true, 0, 300);
  private static final Candidate NEEDED = new Candidate("4", false, 0, 400);
  private static final Candidate BUSY = new Candidate("1", false, 1, 200);
  private static final Candidate BUSIER = new Candidate("2", false, 2, 500);
  private static final List<Candidate> ALL = List.of(BUSIER, OLD_AND_FREE, BUSY, NEEDED, YOUNG_AND_FREE);

  @Test
  void theYoungestFreeOneGoesFirst() {
    assertEquals(List.of("3"), Removals.free(ALL, 1));
  }

  @Test
  void onlyFreeOnesAreFree() {
    assertEquals(List.of("3", "0"), Removals.free(ALL, 5));
  }

  @Test
  void theBusiestGoesLast() {
    assertEquals(List.of("4", "3", "0", "1"), Removals.any(ALL, 4));
  }
}

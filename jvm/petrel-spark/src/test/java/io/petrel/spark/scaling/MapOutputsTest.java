package io.petrel.spark.scaling;

import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import org.junit.jupiter.api.Test;

class MapOutputsTest {
  private final MapOutputs outputs = new MapOutputs();

  @Test
  void mapOutputIsNeededUntilItsJobEnds() {
    outputs.jobStarted(1, List.of(10, 11));
    outputs.jobStarted(2, List.of(20));
    outputs.written(10, "0");
    outputs.written(20, "0");
    outputs.jobEnded(1);
    assertTrue(outputs.neededFrom("0"));
    assertFalse(outputs.neededFrom("1"));
    outputs.jobEnded(2);
    assertFalse(outputs.neededFrom("0"));
  }

  @Test
  void whatComesAfterTheJobIsNotNeeded() {
    outputs.jobStarted(1, List.of(10));
    outputs.jobEnded(1);
    outputs.written(10, "0");
    assertFalse(outputs.neededFrom("0"));
  }
}

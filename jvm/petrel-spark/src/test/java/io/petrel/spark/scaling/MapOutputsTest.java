package io.petrel.spark.scaling;

import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import org.junit.jupiter.api.Test;

class MapOutputsTest {
  private final MapOutputs outputs = new MapOutputs();

  @Test
  void mapOutputIsNeededUntilItsWorkEnds() {
    outputs.jobStarted("job 1", List.of(10, 11));
    outputs.jobStarted("job 2", List.of(20));
    outputs.written(10, "0");
    outputs.written(20, "0");
    outputs.workEnded("job 1");
    assertTrue(outputs.neededFrom("0"));
    assertFalse(outputs.neededFrom("1"));
    outputs.workEnded("job 2");
    assertFalse(outputs.neededFrom("0"));
  }

  @Test
  void aLaterJobOfTheSameWorkKeepsWhatAnEarlierOneLeft() {
    outputs.jobStarted("execution 1", List.of(10));
    outputs.written(10, "0");
    outputs.jobStarted("execution 1", List.of(11, 12));
    outputs.written(12, "1");
    assertTrue(outputs.neededFrom("0"));
    outputs.workEnded("execution 1");
    assertFalse(outputs.neededFrom("0"));
    assertFalse(outputs.neededFrom("1"));
  }

  @Test
  void whatComesAfterTheWorkIsNotNeeded() {
    outputs.jobStarted("job 1", List.of(10));
    outputs.workEnded("job 1");
    outputs.written(10, "0");
    assertFalse(outputs.neededFrom("0"));
  }

  @Test
  void workWhoseEndWasLostIsForgottenWhenMuchHasBegunSince() {
    outputs.jobStarted("execution 0", List.of(0));
    outputs.written(0, "0");
    for (int work = 1; work <= 256; work++) {
      assertTrue(outputs.neededFrom("0"));
      outputs.jobStarted("execution " + work, List.of(work));
    }
    assertFalse(outputs.neededFrom("0"));
  }
}

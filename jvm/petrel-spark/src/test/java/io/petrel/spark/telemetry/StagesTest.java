package io.petrel.spark.telemetry;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.petrel.spark.protocol.TaskFigures;
import io.petrel.spark.telemetry.Stages.Attempt;
import org.junit.jupiter.api.Test;

class StagesTest {
  private static final Attempt FIRST = new Attempt(3, 0);
  private static final Attempt SECOND = new Attempt(3, 1);
  private static final BatchKey BATCH = new BatchKey("query", 7);
  private static final TaskFigures FINISHED = new TaskFigures(1, 0, 40, 30, 0, 0, 0, 0, 0);
  private static final TaskFigures FAILED = new TaskFigures(0, 1, 40, 30, 0, 0, 0, 0, 0);

  private final Stages stages = new Stages();

  @Test
  void tasksWaitRunAndEnd() {
    stages.submitted(FIRST, 3, BATCH);
    stages.taskStarted(FIRST, "0", 100);
    assertTasks(2, 1);
    stages.taskEnded(FIRST, FAILED, 0, 150);
    assertTasks(3, 0);
    stages.taskStarted(FIRST, "0", 200);
    stages.taskEnded(FIRST, FINISHED, 0, 250);
    assertTasks(2, 0);
    assertEquals(100, stages.close(BATCH).busyMs(300));
  }

  @Test
  void aSpeculativeTaskThatOutlivesItsStageIsCountedUntilItEnds() {
    stages.submitted(FIRST, 1, BATCH);
    stages.taskStarted(FIRST, "0", 100);
    stages.taskStarted(FIRST, "1", 120);
    stages.taskEnded(FIRST, FINISHED, 0, 150);
    stages.completed(FIRST);
    assertTasks(0, 1);
    stages.taskEnded(FIRST, FAILED, 0, 160);
    assertTasks(0, 0);
    assertEquals(60, stages.close(BATCH).busyMs(500));
  }

  @Test
  void attemptsAtAStageAreToldApart() {
    stages.submitted(FIRST, 2, BATCH);
    stages.taskStarted(FIRST, "0", 100);
    stages.completed(FIRST);
    stages.submitted(SECOND, 2, BATCH);
    stages.taskStarted(SECOND, "1", 200);
    stages.taskEnded(FIRST, FAILED, 0, 210);
    assertTasks(1, 1);
    stages.completed(SECOND);
    stages.taskEnded(SECOND, FINISHED, 0, 300);
    assertTasks(0, 0);
  }

  @Test
  void aTaskWhoseOutputWasLostWaitsAgainAndHasFinishedOnce() {
    stages.submitted(FIRST, 2, BATCH);
    stages.taskStarted(FIRST, "0", 100);
    stages.taskStarted(FIRST, "1", 100);
    stages.taskEnded(FIRST, FINISHED, 0, 150);
    stages.taskResubmitted(FIRST);
    assertTasks(1, 1);
    assertEquals(1, stages.totals().finished());
    stages.taskEnded(FIRST, FINISHED, 0, 200);
    assertEquals(100, stages.close(BATCH).busyMs(300));
  }

  @Test
  void theBatchesOfAQueryThatEndedAreForgotten() {
    stages.submitted(FIRST, 1, BATCH);
    stages.taskStarted(FIRST, "0", 100);
    stages.forget("another");
    stages.forget("query");
    assertEquals(0, stages.close(BATCH).tasks());
  }

  @Test
  void stagesWhoseEndWasLostAreForgottenWhenManyHaveBegunSince() {
    stages.submitted(FIRST, 5, null);
    for (int stage = 100; stage < 1_100; stage++) {
      stages.submitted(new Attempt(stage, 0), 0, null);
    }
    assertTasks(0, 0);
  }

  private void assertTasks(int pending, int running) {
    assertEquals(pending, stages.pending(), "pending");
    assertEquals(running, stages.running(), "running");
  }
}

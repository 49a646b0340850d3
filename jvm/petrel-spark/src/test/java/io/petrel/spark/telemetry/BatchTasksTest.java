package io.petrel.spark.telemetry;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.petrel.spark.protocol.TaskFigures;
import org.junit.jupiter.api.Test;

class BatchTasksTest {
  private static final TaskFigures TASK = new TaskFigures(1, 0, 40, 30, 0, 0, 7, 0, 0);

  @Test
  void overlappingTasksAreBusyOnce() {
    BatchTasks tasks = new BatchTasks();
    tasks.started("0", 100);
    tasks.started("1", 110);
    tasks.ended(TASK, 1, 140);
    tasks.ended(TASK, 2, 150);
    tasks.started("0", 200);
    tasks.ended(TASK, 3, 230);
    assertEquals(80, tasks.busyMs(300));
    assertEquals(3, tasks.tasks());
    assertEquals(2, tasks.executors());
    assertEquals(6, tasks.inputBytes());
    assertEquals(120, tasks.figures().runMs());
    assertEquals(21, tasks.figures().shuffleWrittenBytes());
  }

  @Test
  void aTaskThatRunsOnIsBusyUntilTheEndOfTheBatch() {
    BatchTasks tasks = new BatchTasks();
    tasks.started("0", 100);
    tasks.started("1", 110);
    tasks.ended(TASK, 1, 140);
    assertEquals(60, tasks.busyMs(160));
  }
}

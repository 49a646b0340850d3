package io.petrel.spark.scaling;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;

import io.petrel.spark.protocol.ExecutorPhase;
import io.petrel.spark.protocol.ExecutorStatus;
import java.util.List;
import org.junit.jupiter.api.Test;

class ExecutorsTest {
  private static final long START_MS = 1_000_000;

  private final Executors executors = new Executors(START_MS, 1);
  private final FakeCluster cluster = new FakeCluster(executors);

  @Test
  void anExecutorIsMatchedWithItsRequest() {
    executors.target(2, START_MS + 100);
    cluster.launch("0", START_MS + 4_000);
    executors.taskStarted("0");
    executors.taskEnded("0", START_MS + 4_500, START_MS + 5_000, 100);
    List<ExecutorStatus> statuses = executors.statuses();
    assertEquals(
        new ExecutorStatus(
            0, null, ExecutorPhase.RUNNING, START_MS + 100, START_MS + 4_000, START_MS + 5_000, 0.0, 0.0, "host-0", 1),
        statuses.get(0));
    assertEquals(
        new ExecutorStatus(
            ExecutorStatus.FIRST_REQUEST + 1,
            null,
            ExecutorPhase.PROVISIONING,
            START_MS + 100,
            null,
            null,
            0.0,
            0.0,
            "",
            0),
        statuses.get(1));
  }

  @Test
  void executorsOfTheApplicationsStartWereAskedForThen() {
    cluster.launch("0", START_MS + 3_000);
    assertEquals(START_MS, executors.statuses().get(0).requestedMs());
  }

  @Test
  void theSuccessorOfALostExecutorIsAskedForWhenThatIsLost() {
    executors.target(1, START_MS);
    cluster.launch("0", START_MS + 1_000);
    executors.removed("0", START_MS + 90_000);
    assertEquals(ExecutorPhase.PROVISIONING, executors.statuses().get(0).phase());
    cluster.launch("1", START_MS + 93_000);
    assertEquals(START_MS + 90_000, executors.statuses().get(0).requestedMs());
  }

  @Test
  void aSuccessorDoesNotGetTheAgeOfWhatTheClusterNeverGranted() {
    executors.target(3, START_MS);
    cluster.launch("0", START_MS + 1_000);
    executors.removed("0", START_MS + 7_200_000);
    cluster.launch("1", START_MS + 7_203_000);
    assertEquals(START_MS + 7_200_000, executors.statuses().get(0).requestedMs());
  }

  @Test
  void startUpCountsNeitherTheWaitForWorkNorTheWork() {
    for (int id = 0; id < 3; id++) {
      String executor = Integer.toString(id);
      executors.target(id + 1, START_MS);
      cluster.launch(executor, START_MS + 2_000);
      executors.taskStarted(executor);
      executors.taskEnded(executor, START_MS + 60_000, START_MS + 66_000, 5_000);
    }
    assertEquals(3.0, executors.startupDelayS());
  }

  @Test
  void executorSecondsRunFromRequestToRelease() {
    executors.target(1, START_MS);
    assertEquals(0.0, executors.executorSeconds(START_MS + 5_000));
    cluster.launch("0", START_MS + 6_000);
    assertEquals(7.0, executors.executorSeconds(START_MS + 7_000));
    executors.target(0, START_MS + 8_000);
    executors.removed("0", START_MS + 10_000);
    assertEquals(10.0, executors.executorSeconds(START_MS + 90_000));
  }

  @Test
  void executorSecondsDoNotFallWhenTheClockIsSetBack() {
    executors.target(1, START_MS);
    cluster.launch("0", START_MS + 1_000);
    assertEquals(60.0, executors.executorSeconds(START_MS + 60_000));
    assertEquals(60.0, executors.executorSeconds(START_MS + 30_000));
    assertEquals(61.0, executors.executorSeconds(START_MS + 61_000));
  }

  @Test
  void anExecutorOfAnotherResourceProfileIsLeftAlone() {
    executors.target(1, START_MS);
    cluster.launch("0", START_MS + 1_000, 1);
    executors.taskStarted("0");
    assertEquals(List.of(), executors.active());
    assertEquals(List.of(ExecutorPhase.PROVISIONING), executors.statuses().stream().map(ExecutorStatus::phase).toList());
  }

  @Test
  void aDrainingExecutorIsReplacedByARequest() {
    executors.target(1, START_MS);
    cluster.launch("0", START_MS + 1_000);
    executors.draining(List.of("0"), START_MS + 2_000);
    assertEquals(
        List.of(ExecutorPhase.DRAINING, ExecutorPhase.PROVISIONING),
        executors.statuses().stream().map(ExecutorStatus::phase).toList());
  }

  @Test
  void utilisationIsAShareOfTheLimit() {
    cluster.launch("0", START_MS);
    executors.used(new ExecutorUsage("0", 0.5, 0.2));
    assertEquals(0.4, executors.statuses().get(0).cpuUtilisation(), 1e-9);
    assertEquals(0.5, executors.cpuLimit());
  }

  @Test
  void withoutALimitUtilisationIsAShareOfTheCores() {
    cluster.launch("0", START_MS);
    executors.used(new ExecutorUsage("0", null, 0.25));
    assertEquals(0.25, executors.statuses().get(0).cpuUtilisation());
    assertNull(executors.cpuLimit());
  }

  @Test
  void theDriverIsNoExecutor() {
    cluster.launch("driver", START_MS);
    executors.taskStarted("driver");
    executors.removed("driver", START_MS);
    assertEquals(List.of(), executors.statuses());
  }
}

package io.petrel.spark.scaling;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.petrel.spark.protocol.DecisionOutcome.Outcome;
import java.util.List;
import org.junit.jupiter.api.Test;

class ScalerTest {
  private final Executors executors = new Executors(0, 1);
  private final FakeCluster cluster = new FakeCluster(executors);

  @Test
  void growingAsksOnceAndIsMetWhenTheyRun() {
    Scaler scaler = scaler(Shrink.DECOMMISSION);
    assertEquals(Outcome.REQUESTED, scaler.approach(2, 100));
    cluster.launch("0", 200);
    assertEquals(Outcome.REQUESTED, scaler.approach(2, 300));
    cluster.launch("1", 400);
    assertEquals(Outcome.MET, scaler.approach(2, 500));
    assertEquals(List.of("request 2"), cluster.calls);
  }

  @Test
  void aRequestThatTheClusterRefusesIsMadeAgain() {
    Scaler scaler = scaler(Shrink.DECOMMISSION);
    cluster.takesRequests = false;
    assertEquals(Outcome.REFUSED, scaler.approach(2, 100));
    cluster.takesRequests = true;
    assertEquals(Outcome.REQUESTED, scaler.approach(2, 200));
    assertEquals(List.of("request 2", "request 2"), cluster.calls);
  }

  @Test
  void aRequestThatIsNotGrantedIsRepeatedEveryTenSeconds() {
    Scaler scaler = scaler(Shrink.DECOMMISSION);
    scaler.approach(1, 1_000);
    scaler.approach(1, 10_999);
    assertEquals(1, cluster.calls.size());
    scaler.approach(1, 11_000);
    scaler.approach(1, 20_999);
    assertEquals(List.of("request 1", "request 1"), cluster.calls);
    cluster.launch("0", 21_000);
    scaler.approach(1, 90_000);
    assertEquals(2, cluster.calls.size());
    executors.removed("0", 91_000);
    assertEquals(Outcome.REQUESTED, scaler.approach(1, 92_000));
    assertEquals(3, cluster.calls.size());
  }

  @Test
  void requestsThatAreNotGrantedAreWithdrawnBeforeExecutorsGo() {
    Scaler scaler = scaler(Shrink.DECOMMISSION);
    cluster.launch("0", 100);
    scaler.approach(3, 200);
    assertEquals(Outcome.MET, scaler.approach(1, 300));
    assertEquals(List.of("request 3", "request 1"), cluster.calls);
  }

  @Test
  void freeExecutorsGoBeforeBusyOnes() {
    Scaler scaler = threeOfWhichOneIsBusy(Shrink.DECOMMISSION);
    assertEquals(Outcome.WAITING, scaler.approach(1, 500));
    assertEquals(List.of("request 1", "kill idle 2,0"), cluster.calls);
    executors.removed("2", 600);
    executors.removed("0", 600);
    assertEquals(Outcome.MET, scaler.approach(1, 700));
    assertEquals(2, cluster.calls.size());
  }

  @Test
  void aBusyExecutorIsDrainedAndEndedWhenItIsFree() {
    Scaler scaler = threeOfWhichOneIsBusy(Shrink.DECOMMISSION);
    executors.taskStarted("0");
    executors.taskStarted("2");
    scaler.approach(2, 500);
    scaler.approach(2, 600);
    scaler.finishRemovals(600);
    executors.taskEnded("2", 450, 650, 100);
    scaler.finishRemovals(700);
    scaler.finishRemovals(800);
    assertEquals(List.of("request 2", "drain 2", "kill idle 2"), cluster.calls);
  }

  @Test
  void busyExecutorsMayBeLeftAlone() {
    Scaler scaler = threeOfWhichOneIsBusy(Shrink.IDLE);
    executors.taskStarted("0");
    executors.taskStarted("2");
    assertEquals(Outcome.WAITING, scaler.approach(2, 500));
    assertEquals(List.of("request 2"), cluster.calls);
    executors.taskEnded("0", 450, 650, 100);
    scaler.approach(2, 700);
    assertEquals(List.of("request 2", "kill idle 0"), cluster.calls);
  }

  @Test
  void busyExecutorsMayBeKilled() {
    Scaler scaler = threeOfWhichOneIsBusy(Shrink.KILL);
    executors.taskStarted("0");
    executors.taskStarted("2");
    scaler.approach(2, 500);
    scaler.approach(2, 600);
    assertEquals(List.of("request 2", "kill 2"), cluster.calls);
  }

  @Test
  void afterSomeoneElseAskedTheSameNumberIsRequestedAgain() {
    Scaler scaler = scaler(Shrink.DECOMMISSION);
    scaler.approach(2, 100);
    scaler.forget();
    scaler.approach(2, 200);
    assertEquals(List.of("request 2", "request 2"), cluster.calls);
  }

  @Test
  void anExecutorThatDrainsForTenMinutesIsEndedIfSparkFindsItIdle() {
    Scaler scaler = threeOfWhichOneIsBusy(Shrink.DECOMMISSION);
    executors.taskStarted("0");
    executors.taskStarted("2");
    scaler.approach(2, 500);
    scaler.finishRemovals(600_000);
    assertEquals(List.of("request 2", "drain 2"), cluster.calls);
    cluster.refusesBusy = true;
    scaler.finishRemovals(600_500);
    scaler.finishRemovals(601_500);
    cluster.refusesBusy = false;
    scaler.finishRemovals(1_200_500);
    scaler.finishRemovals(1_800_500);
    assertEquals(List.of("request 2", "drain 2", "kill idle 2", "kill idle 2"), cluster.calls);
  }

  @Test
  void executorsThatTheSchedulerHasLostAreGoneAfterAMinute() {
    Scaler scaler = scaler(Shrink.DECOMMISSION);
    cluster.launch("0", 1_000);
    cluster.launch("1", 30_000);
    cluster.lost.addAll(List.of("0", "1"));
    scaler.forgetLost(61_000);
    assertEquals(List.of("1"), executors.active().stream().map(Candidate::id).toList());
  }

  private Scaler scaler(Shrink shrink) {
    return new Scaler(cluster, executors, shrink);
  }

  private Scaler threeOfWhichOneIsBusy(Shrink shrink) {
    cluster.launch("0", 100);
    cluster.launch("1", 200);
    cluster.launch("2", 300);
    executors.taskStarted("1");
    return scaler(shrink);
  }
}

package io.petrel.spark.scaling;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.petrel.spark.SparingLog;
import io.petrel.spark.protocol.DecisionOutcome;
import io.petrel.spark.protocol.DesiredState;
import io.petrel.spark.protocol.EngineMode;
import java.util.List;
import java.util.OptionalInt;
import org.apache.spark.scheduler.SparkListenerExecutorAdded;
import org.junit.jupiter.api.Test;

class SteeringTest {
  private final Executors executors = new Executors(0, 1);
  private final FakeCluster cluster = new FakeCluster(executors);
  private final FakeAllocation allocation = new FakeAllocation();

  @Test
  void holdingLetsDynamicAllocationRest() {
    Steering steering = steering(true);
    steering.carryOn(100);
    assertEquals(EngineMode.FALLBACK, steering.mode());
    cluster.launch("0", 200);
    steering.carryOn(300);
    assertEquals(EngineMode.HOLDING, steering.mode());
    assertFalse(allocation.atWork());
  }

  @Test
  void withoutHoldingItIsAtWorkWhileNoControllerIsHeard() {
    Steering steering = steering(false);
    cluster.launch("0", 200);
    steering.obey(desired(1, 1), 300);
    assertEquals(EngineMode.STEERED, steering.mode());
    assertFalse(allocation.atWork());
    steering.carryOnAlone("silence", 400);
    assertEquals(EngineMode.FALLBACK, steering.mode());
    assertTrue(allocation.atWork());
  }

  @Test
  void theBoundsOfTheUserHold() {
    Steering steering = steering(false);
    steering.obey(desired(1, 9), 100);
    assertEquals(List.of("request 4"), cluster.calls);
    DecisionOutcome outcome = steering.outcomes().all().entries().get(0);
    assertEquals(
        "9 executors, bounded to 4 by spark.dynamicAllocation.minExecutors and maxExecutors, tier memory, codec lz4",
        outcome.detail());
    steering.obey(desired(2, 3), 200);
    assertEquals("3 executors, tier memory, codec lz4", steering.outcomes().all().entries().get(1).detail());
    steering.obey(desired(3, 1), 300);
    assertEquals(List.of("request 4", "request 3", "request 2"), cluster.calls);
  }

  @Test
  void aDecisionBelowTheLastAppliedOneIsPassedOver() {
    Steering steering = steering(false);
    steering.obey(desired(7, 3), 100);
    steering.obey(desired(6, 4), 200);
    assertEquals(List.of("request 3"), cluster.calls);
    assertEquals(7, steering.appliedDecision());
    steering.obey(desired(8, 4), 300);
    assertEquals(List.of("request 3", "request 4"), cluster.calls);
  }

  @Test
  void afterTheApplicationsEndDynamicAllocationIsEndedAndNothingIsAsked() {
    Steering steering = steering(false);
    steering.carryOnAlone("silence", 100);
    assertTrue(allocation.atWork());
    steering.stop();
    steering.obey(desired(1, 3), 200);
    assertFalse(allocation.atWork());
    assertEquals(List.of(), cluster.calls);
  }

  private Steering steering(boolean hold) {
    Scaler scaler = new Scaler(cluster, executors, Shrink.DECOMMISSION);
    return new Steering(scaler, allocation, executors, hold, new SparingLog());
  }

  private static DesiredState desired(long decision, int executors) {
    return new DesiredState(2, decision, executors, "memory", "lz4", false);
  }

  /** Bounded to 2 to 4 executors. */
  private static final class FakeAllocation implements Allocation {
    private boolean atWork = true;

    @Override
    public boolean atWork() {
      return atWork;
    }

    @Override
    public OptionalInt target() {
      return OptionalInt.empty();
    }

    @Override
    public void pause() {
      atWork = false;
    }

    @Override
    public void resume(List<SparkListenerExecutorAdded> executors) {
      atWork = true;
    }

    @Override
    public int bounded(int executors) {
      return Math.max(2, Math.min(4, executors));
    }
  }
}

package io.petrel.spark.scaling;

import java.util.List;
import java.util.OptionalInt;
import org.apache.spark.ExecutorAllocationClient;
import org.apache.spark.ExecutorAllocationManager;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.resource.ResourceProfile;
import org.apache.spark.scheduler.SparkListenerExecutorAdded;
import org.apache.spark.util.SystemClock;
import scala.Option;

/**
 * Is Spark's own dynamic allocation at work? Two would pull at the same executors, so it rests while the controller steers, and
 * a new one takes over when the controller is gone: Spark's cannot be started a second time.
 */
final class DynamicAllocation implements Allocation {
  private final SparkContext context;
  private final boolean configured;
  private ExecutorAllocationManager own;
  private boolean atWork;

  DynamicAllocation(SparkContext context) {
    this.context = context;
    this.configured = context.executorAllocationManager().isDefined();
    this.atWork = configured;
  }

  @Override
  public boolean atWork() {
    return atWork;
  }

  @Override
  public OptionalInt target() {
    if (!atWork) {
      return OptionalInt.empty();
    }
    ExecutorAllocationManager manager = own == null ? context.executorAllocationManager().get() : own;
    Option<Object> target =
        manager.numExecutorsTargetPerResourceProfileId().get(ResourceProfile.DEFAULT_RESOURCE_PROFILE_ID());
    return target.isEmpty() ? OptionalInt.empty() : OptionalInt.of((Integer) target.get());
  }

  @Override
  public void pause() {
    if (!atWork) {
      return;
    }
    atWork = false;
    if (own == null) {
      context.executorAllocationManager().get().stop();
    } else {
      ExecutorAllocationManager ending = own;
      own = null;
      context.listenerBus().removeListener(ending.listener());
      context.listenerBus().removeListener(ending.executorMonitor());
      ending.stop();
    }
  }

  @Override
  public void resume(List<SparkListenerExecutorAdded> executors) {
    if (atWork || !configured) {
      return;
    }
    SparkConf conf = context.conf().clone();
    // Its first request is for the initial executors: those that are there shall stay until it finds them idle.
    conf.set("spark.dynamicAllocation.initialExecutors", Integer.toString(executors.size()));
    conf.remove("spark.executor.instances");
    own =
        new ExecutorAllocationManager(
            (ExecutorAllocationClient) context.schedulerBackend(),
            context.listenerBus(),
            conf,
            // The monitor of Spark's own stays with the cleaner, and passes on to all what that says.
            Option.empty(),
            new SystemClock(),
            context.resourceProfileManager(),
            context.shuffleDriverComponents().supportsReliableStorage());
    // It has missed their arrival and would never find those idle that get no task from now on.
    executors.forEach(own.executorMonitor()::onExecutorAdded);
    // Its thread and listeners are there even if its first request fails.
    atWork = true;
    own.start();
  }

  @Override
  public int bounded(int executors) {
    if (!configured) {
      return executors;
    }
    int least = context.conf().getInt("spark.dynamicAllocation.minExecutors", 0);
    int most = context.conf().getInt("spark.dynamicAllocation.maxExecutors", Integer.MAX_VALUE);
    return Math.max(least, Math.min(most, executors));
  }
}

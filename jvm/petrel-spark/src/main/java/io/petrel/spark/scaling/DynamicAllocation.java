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
 * a new one takes over when the controller is gone: Spark's cannot be started a second time. Used by one thread.
 */
final class DynamicAllocation {
  private final SparkContext context;
  private final boolean configured;
  private ExecutorAllocationManager own;
  private boolean atWork;

  DynamicAllocation(SparkContext context) {
    this.context = context;
    this.configured = context.executorAllocationManager().isDefined();
    this.atWork = configured;
  }

  boolean atWork() {
    return atWork;
  }

  /** Executors that it has asked the cluster for; empty while it does not work, or has not asked yet. */
  OptionalInt target() {
    if (!atWork) {
      return OptionalInt.empty();
    }
    ExecutorAllocationManager manager = own == null ? context.executorAllocationManager().get() : own;
    Option<Object> target =
        manager.numExecutorsTargetPerResourceProfileId().get(ResourceProfile.DEFAULT_RESOURCE_PROFILE_ID());
    return target.isEmpty() ? OptionalInt.empty() : OptionalInt.of((Integer) target.get());
  }

  /** Ends its work; nothing happens when it does not work. */
  void pause() {
    if (!atWork) {
      return;
    }
    atWork = false;
    if (own == null) {
      context.executorAllocationManager().get().stop();
    } else {
      own.stop();
      context.listenerBus().removeListener(own.listener());
      context.listenerBus().removeListener(own.executorMonitor());
      own = null;
    }
  }

  /** Begins its work with the executors that are there; nothing happens when it works already or was never configured. */
  void resume(List<SparkListenerExecutorAdded> executors) {
    if (atWork || !configured) {
      return;
    }
    SparkConf conf = context.conf().clone();
    // Its first request is for the initial executors: those that are there shall stay until it finds them idle.
    conf.set("spark.dynamicAllocation.initialExecutors", Integer.toString(executors.size()));
    own =
        new ExecutorAllocationManager(
            (ExecutorAllocationClient) context.schedulerBackend(),
            context.listenerBus(),
            conf,
            context.cleaner(),
            new SystemClock(),
            context.resourceProfileManager(),
            context.shuffleDriverComponents().supportsReliableStorage());
    own.start();
    // It has missed their arrival and would never find those idle that get no task from now on.
    executors.forEach(own.executorMonitor()::onExecutorAdded);
    atWork = true;
  }
}

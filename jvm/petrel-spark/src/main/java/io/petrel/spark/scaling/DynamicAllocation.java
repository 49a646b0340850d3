package io.petrel.spark.scaling;

import java.util.List;
import org.apache.spark.ExecutorAllocationClient;
import org.apache.spark.ExecutorAllocationManager;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.scheduler.SparkListenerExecutorAdded;
import org.apache.spark.util.SystemClock;

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

  boolean configured() {
    return configured;
  }

  boolean atWork() {
    return atWork;
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

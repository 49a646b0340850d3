package io.petrel.spark.scaling;

import io.petrel.spark.ScalaLists;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.spark.ExecutorAllocationClient;
import org.apache.spark.SparkContext;
import org.apache.spark.scheduler.ExecutorDecommissionInfo;
import scala.Option;
import scala.Tuple2;

/**
 * The cluster by Spark's scheduler backend: the same calls as Spark's own dynamic allocation makes, so they work wherever that
 * works. {@code SparkContext.killExecutors} is no way in: it refuses while dynamic allocation is configured.
 */
public final class SparkCluster implements Cluster {
  private static final boolean KEEP_TARGET = false;
  private static final boolean NOT_A_FAILURE = false;
  private static final boolean EXECUTOR_KNOWS = true;

  private final SparkContext context;

  /** The cluster of {@code context}. */
  public SparkCluster(SparkContext context) {
    this.context = context;
  }

  @Override
  public boolean requestTotal(int executors) {
    // Asked in local mode, Spark would warn each time that it cannot.
    return context.schedulerBackend() instanceof ExecutorAllocationClient
        && context.requestTotalExecutors(executors, 0, scala.collection.immutable.Map$.MODULE$.empty());
  }

  @Override
  public List<String> killIdle(List<String> executors) {
    return kill(executors, false);
  }

  @Override
  public List<String> kill(List<String> executors) {
    return kill(executors, true);
  }

  /**
   * Decommissions them on the driver's side only: the scheduler passes them over and their blocks are handed on where Spark is
   * set to do that. Told to decommission itself, an executor may stay for half a minute after its last task, because it looks
   * for blocks to hand on that often; Petrel ends it as soon as it is free.
   */
  @Override
  public List<String> drain(List<String> executors) {
    if (executors.isEmpty() || !(context.schedulerBackend() instanceof ExecutorAllocationClient client)) {
      return List.of();
    }
    @SuppressWarnings({"unchecked", "rawtypes"})
    Tuple2<String, ExecutorDecommissionInfo>[] leaving = new Tuple2[executors.size()];
    for (int index = 0; index < leaving.length; index++) {
      leaving[index] = new Tuple2<>(executors.get(index), new ExecutorDecommissionInfo("Petrel shrinks", Option.empty()));
    }
    return ScalaLists.toJava(client.decommissionExecutors(leaving, KEEP_TARGET, EXECUTOR_KNOWS));
  }

  @Override
  public List<String> unknown(List<String> executors) {
    if (!(context.schedulerBackend() instanceof ExecutorAllocationClient client)) {
      return List.of();
    }
    Set<String> known = new HashSet<>(ScalaLists.toJava(client.getExecutorIds()));
    return executors.stream().filter(executor -> !known.contains(executor)).toList();
  }

  private List<String> kill(List<String> executors, boolean busyToo) {
    if (executors.isEmpty() || !(context.schedulerBackend() instanceof ExecutorAllocationClient client)) {
      return List.of();
    }
    return ScalaLists.toJava(
        client.killExecutors(ScalaLists.toScala(executors), KEEP_TARGET, NOT_A_FAILURE, busyToo));
  }
}

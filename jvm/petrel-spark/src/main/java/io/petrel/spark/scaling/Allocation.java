package io.petrel.spark.scaling;

import java.util.List;
import java.util.OptionalInt;
import org.apache.spark.scheduler.SparkListenerExecutorAdded;

/** Who scales the application where no controller does? Spark itself, or nobody. Used by one thread. */
interface Allocation {
  /** True while Spark decides how many executors there are. */
  boolean atWork();

  /** Executors that it has asked the cluster for; empty while it does not work, or has not asked yet. */
  OptionalInt target();

  /** Ends its work; nothing happens when it does not work. */
  void pause();

  /** Begins its work with the executors that are there; nothing happens when it works already or was never configured. */
  void resume(List<SparkListenerExecutorAdded> executors);

  /** The number of executors nearest to {@code executors} that the user has bounded it to. */
  int bounded(int executors);
}

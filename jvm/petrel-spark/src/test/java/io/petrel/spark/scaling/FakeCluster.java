package io.petrel.spark.scaling;

import java.util.ArrayList;
import java.util.List;
import org.apache.spark.scheduler.cluster.ExecutorInfo;

/** A cluster that does at once what is asked of it, for executors that the test makes busy. */
final class FakeCluster implements Cluster {
  final List<String> calls = new ArrayList<>();
  boolean takesRequests = true;
  private final Executors executors;

  FakeCluster(Executors executors) {
    this.executors = executors;
  }

  /** An executor with one core registers. */
  void launch(String id, long timeMs) {
    scala.collection.immutable.Map<String, String> noLogs = scala.collection.immutable.Map$.MODULE$.empty();
    executors.registered(id, new ExecutorInfo("host-" + id, 1, noLogs), timeMs);
  }

  @Override
  public boolean requestTotal(int total) {
    calls.add("request " + total);
    return takesRequests;
  }

  @Override
  public List<String> killIdle(List<String> ids) {
    return note("kill idle ", ids);
  }

  @Override
  public List<String> kill(List<String> ids) {
    return note("kill ", ids);
  }

  @Override
  public List<String> drain(List<String> ids) {
    return note("drain ", ids);
  }

  private List<String> note(String what, List<String> ids) {
    if (!ids.isEmpty()) {
      calls.add(what + String.join(",", ids));
    }
    return ids;
  }
}

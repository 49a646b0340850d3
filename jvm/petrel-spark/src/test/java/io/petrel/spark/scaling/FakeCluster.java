package io.petrel.spark.scaling;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.spark.resource.ResourceProfile;
import org.apache.spark.scheduler.cluster.ExecutorInfo;

/** A cluster that does at once what is asked of it, for executors that the test makes busy. */
final class FakeCluster implements Cluster {
  final List<String> calls = new ArrayList<>();
  final Set<String> lost = new HashSet<>();
  boolean takesRequests = true;
  boolean refusesBusy;
  private final Executors executors;

  FakeCluster(Executors executors) {
    this.executors = executors;
  }

  /** An executor with one core registers. */
  void launch(String id, long timeMs) {
    launch(id, timeMs, ResourceProfile.DEFAULT_RESOURCE_PROFILE_ID());
  }

  void launch(String id, long timeMs, int resourceProfile) {
    ExecutorInfo info = new ExecutorInfo("host-" + id, 1, none(), none(), none(), resourceProfile);
    executors.registered(id, info, timeMs);
  }

  @Override
  public boolean requestTotal(int total) {
    calls.add("request " + total);
    return takesRequests;
  }

  @Override
  public List<String> killIdle(List<String> ids) {
    List<String> asked = note("kill idle ", ids);
    return refusesBusy ? List.of() : asked;
  }

  @Override
  public List<String> kill(List<String> ids) {
    return note("kill ", ids);
  }

  @Override
  public List<String> drain(List<String> ids) {
    return note("drain ", ids);
  }

  @Override
  public List<String> unknown(List<String> ids) {
    return ids.stream().filter(lost::contains).toList();
  }

  private static <V> scala.collection.immutable.Map<String, V> none() {
    return scala.collection.immutable.Map$.MODULE$.empty();
  }

  private List<String> note(String what, List<String> ids) {
    if (!ids.isEmpty()) {
      calls.add(what + String.join(",", ids));
    }
    return ids;
  }
}

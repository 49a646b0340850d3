package io.petrel.spark.scaling;

import io.petrel.spark.protocol.DecisionOutcome.Outcome;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/**
 * How does the application get to the number of executors that is wanted? Absolute and idempotent: called again with the same
 * number it does nothing that is done already. Used by one thread.
 */
final class Scaler {
  private final Cluster cluster;
  private final Executors executors;
  private final Shrink shrink;
  /** Told to end, and not gone yet. */
  private final Set<String> ended = new HashSet<>();
  private Integer requested;

  Scaler(Cluster cluster, Executors executors, Shrink shrink) {
    this.cluster = cluster;
    this.executors = executors;
    this.shrink = shrink;
  }

  /** Takes the next step towards {@code wanted} executors and says how far that is. */
  Outcome approach(int wanted, long nowMs) {
    if (requested == null || requested != wanted) {
      if (!cluster.requestTotal(wanted)) {
        return Outcome.REFUSED;
      }
      requested = wanted;
      executors.target(wanted, nowMs);
    }
    int surplus = executors.active().size() - wanted;
    if (surplus > 0) {
      surplus -= remove(surplus, nowMs);
    }
    if (surplus > 0 || !executors.leaving().isEmpty()) {
      return Outcome.WAITING;
    }
    return surplus < 0 ? Outcome.REQUESTED : Outcome.MET;
  }

  /** Ends executors that take no more tasks and are free by now. That has to go on when someone else decides. */
  void finishRemovals() {
    List<Candidate> leaving = executors.leaving();
    ended.retainAll(leaving.stream().map(Candidate::id).toList());
    List<Candidate> drained = leaving.stream().filter(executor -> !ended.contains(executor.id())).toList();
    ended.addAll(cluster.killIdle(Removals.free(drained, drained.size())));
  }

  /** Someone else asks the cluster from now on: what was requested here holds no longer. */
  void forget() {
    requested = null;
  }

  /** Begins to remove up to {@code surplus} executors and says how many. */
  private int remove(int surplus, long nowMs) {
    List<String> killed = cluster.killIdle(Removals.free(executors.active(), surplus));
    ended.addAll(killed);
    executors.draining(killed, nowMs);
    List<String> busy = Removals.any(executors.active(), surplus - killed.size());
    List<String> leaving =
        switch (shrink) {
          case IDLE -> List.of();
          case DECOMMISSION -> cluster.drain(busy);
          case KILL -> cluster.kill(busy);
        };
    if (shrink == Shrink.KILL) {
      ended.addAll(leaving);
    }
    executors.draining(leaving, nowMs);
    return killed.size() + leaving.size();
  }
}

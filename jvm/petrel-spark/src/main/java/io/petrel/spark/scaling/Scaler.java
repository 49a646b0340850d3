package io.petrel.spark.scaling;

import io.petrel.spark.protocol.DecisionOutcome.Outcome;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;

/**
 * How does the application get to the number of executors that is wanted? Absolute and idempotent: called again with the same
 * number it does nothing that is done already. Used by one thread.
 */
final class Scaler {
  /** A cluster may forget what was asked of it, for example when YARN's application master starts again. */
  private static final long REPEAT_MS = 10_000;

  /** Spark's scheduler may know an executor a little later or earlier than its listeners hear of it. */
  private static final long SETTLED_MS = 60_000;

  /** Events of an executor that is not free after this long may have been lost. */
  private static final long LONGEST_DRAIN_MS = 600_000;

  private final Cluster cluster;
  private final Executors executors;
  private final Shrink shrink;
  /** Told to end, and not gone yet. */
  private final Set<String> ended = new HashSet<>();
  private Integer requested;
  private long requestedMs;

  Scaler(Cluster cluster, Executors executors, Shrink shrink) {
    this.cluster = cluster;
    this.executors = executors;
    this.shrink = shrink;
  }

  /** Takes the next step towards {@code wanted} executors and says how far that is. */
  Outcome approach(int wanted, long nowMs) {
    if (hasToRequest(wanted, nowMs)) {
      if (!cluster.requestTotal(wanted)) {
        return Outcome.REFUSED;
      }
      requested = wanted;
      requestedMs = nowMs;
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
  void finishRemovals(long nowMs) {
    List<Candidate> leaving = executors.leaving();
    ended.retainAll(leaving.stream().map(Candidate::id).toList());
    List<Candidate> drained = leaving.stream().filter(executor -> !ended.contains(executor.id())).toList();
    Set<String> ending = new LinkedHashSet<>(Removals.free(drained, drained.size()));
    List<String> overdue =
        executors.drainingSince(nowMs - LONGEST_DRAIN_MS).stream().filter(id -> !ended.contains(id)).toList();
    ending.addAll(overdue);
    ended.addAll(cluster.killIdle(List.copyOf(ending)));
    // One that is busy indeed is tried again after the same time.
    executors.draining(overdue, nowMs);
  }

  /** Executors that Spark's scheduler has no more are gone, even if the event that told so was lost. */
  void forgetLost(long nowMs) {
    cluster.unknown(executors.registeredUntil(nowMs - SETTLED_MS)).forEach(id -> executors.removed(id, nowMs));
  }

  /** Someone else asks the cluster from now on: what was requested here holds no longer. */
  void forget() {
    requested = null;
  }

  private boolean hasToRequest(int wanted, long nowMs) {
    if (requested == null || requested != wanted) {
      return true;
    }
    // The clock may have been set back.
    boolean isLongAgo = Math.abs(nowMs - requestedMs) >= REPEAT_MS;
    return isLongAgo && executors.active().size() != wanted;
  }

  /** Begins to remove up to {@code surplus} executors and says how many. */
  private int remove(int surplus, long nowMs) {
    List<String> killed = cluster.killIdle(Removals.free(executors.active(), surplus));
    ended.addAll(killed);
    executors.draining(killed, nowMs);
    List<String> busy = Removals.any(executors.active(), surplus - killed.size());
    List<String> leaving = List.of();
    if (shrink == Shrink.DECOMMISSION) {
      leaving = cluster.drain(busy);
    } else if (shrink == Shrink.KILL) {
      leaving = cluster.kill(busy);
      ended.addAll(leaving);
    }
    executors.draining(leaving, nowMs);
    return killed.size() + leaving.size();
  }
}

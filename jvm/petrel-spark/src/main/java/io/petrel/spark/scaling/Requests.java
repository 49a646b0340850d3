package io.petrel.spark.scaling;

import io.petrel.spark.protocol.ExecutorPhase;
import io.petrel.spark.protocol.ExecutorStatus;
import java.util.ArrayDeque;
import java.util.Iterator;

/**
 * Which executors have been asked for and are not there yet, and since when? Spark knows only a target. Requests are taken to
 * be granted in the order in which they were made, successors of lost executors first, and withdrawn in the opposite order. Not
 * safe for use by several threads.
 */
final class Requests {
  /** A cluster that has begun to start an executor when its request is withdrawn brings it all the same, within this time. */
  private static final long LATE_MS = 120_000;

  private static final int MOST_WITHDRAWN = 1_000;

  private final ArrayDeque<Request> open = new ArrayDeque<>();
  private final ArrayDeque<Request> withdrawn = new ArrayDeque<>();
  private long made;

  /**
   * A request that is not granted yet.
   *
   * @param number counts the requests of this driver, from 0
   * @param sinceMs when it was made
   */
  record Request(long number, long sinceMs) {
    ExecutorStatus status() {
      long id = ExecutorStatus.FIRST_REQUEST + number;
      return new ExecutorStatus(id, null, ExecutorPhase.PROVISIONING, sinceMs, null, null, 0.0, 0.0, "", 0);
    }
  }

  /** From now on this many are open. */
  void setOpen(int count, long nowMs) {
    while (open.size() > count) {
      withdrawn.addLast(open.removeLast());
    }
    while (withdrawn.size() > MOST_WITHDRAWN) {
      withdrawn.removeFirst();
    }
    while (open.size() < count) {
      open.addLast(new Request(made++, nowMs));
    }
  }

  /**
   * An executor was lost, and from now on this many are open. The cluster has room for its successor, which it need not have
   * for what it has not granted until now.
   */
  void setOpenAfterLoss(int count, long nowMs) {
    while (open.size() < count) {
      open.addFirst(new Request(made++, nowMs));
    }
  }

  /** An executor came at {@code nowMs}: when was it asked for? {@code otherwiseMs} where nobody has asked. */
  long grant(long nowMs, long otherwiseMs) {
    withdrawn.removeIf(request -> nowMs - request.sinceMs() > LATE_MS);
    if (!open.isEmpty()) {
      return open.removeFirst().sinceMs();
    }
    return withdrawn.isEmpty() ? otherwiseMs : withdrawn.removeFirst().sinceMs();
  }

  Iterator<Request> iterator() {
    return open.iterator();
  }
}

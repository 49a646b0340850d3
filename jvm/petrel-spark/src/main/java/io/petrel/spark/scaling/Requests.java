package io.petrel.spark.scaling;

import java.util.ArrayDeque;
import java.util.Iterator;

/**
 * Which executors have been asked for and are not there yet, and since when? Spark knows only a target. Requests are taken to
 * be granted in the order in which they were made, and withdrawn in the opposite order. Not safe for use by several threads.
 */
final class Requests {
  private final ArrayDeque<Request> open = new ArrayDeque<>();
  private long made;

  /**
   * A request that is not granted yet.
   *
   * @param number counts the requests of this driver, from 0
   * @param sinceMs when it was made
   */
  record Request(long number, long sinceMs) {}

  /** From now on this many are open. */
  void setOpen(int count, long nowMs) {
    while (open.size() > count) {
      open.removeLast();
    }
    while (open.size() < count) {
      open.addLast(new Request(made++, nowMs));
    }
  }

  /** An executor came: when was it asked for? {@code otherwiseMs} where no request is open. */
  long grant(long otherwiseMs) {
    return open.isEmpty() ? otherwiseMs : open.removeFirst().sinceMs();
  }

  Iterator<Request> iterator() {
    return open.iterator();
  }
}

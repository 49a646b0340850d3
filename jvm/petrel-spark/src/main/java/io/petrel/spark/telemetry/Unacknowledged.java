package io.petrel.spark.telemetry;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;

/**
 * What has the controller not been told yet? Entries stay until a heartbeat that carried them was answered; when there are
 * too many, the oldest go. Safe for use by several threads.
 */
public final class Unacknowledged<T> {
  private final int most;
  private final ArrayDeque<T> entries = new ArrayDeque<>();
  private long taken;

  /** Keeps at most {@code most} entries. */
  public Unacknowledged(int most) {
    this.most = most;
  }

  /** Adds the newest entry. */
  public synchronized void add(T entry) {
    if (entries.size() == most) {
      entries.removeFirst();
      taken++;
    }
    entries.addLast(entry);
  }

  /** All entries, oldest first, with the mark to acknowledge them by. */
  public synchronized Sent<T> all() {
    return new Sent<>(new ArrayList<>(entries), taken + entries.size());
  }

  /** Forgets the entries of {@code sent}; those added since stay. */
  public synchronized void acknowledge(Sent<T> sent) {
    while (taken < sent.end && !entries.isEmpty()) {
      entries.removeFirst();
      taken++;
    }
  }

  /**
   * Entries on their way to the controller.
   *
   * @param entries oldest first
   * @param end how many entries there had been in all when these were taken
   */
  public record Sent<T>(List<T> entries, long end) {}
}

package io.petrel.spark;

/**
 * How long until the next heartbeat? The usual time while the controller answers; twice as long with each failure, up to five
 * seconds, so that a controller that comes back is found soon.
 */
final class Backoff {
  private static final long LONGEST_MS = 5_000;

  private final long usualMs;
  private int failures;

  Backoff(long usualMs) {
    this.usualMs = usualMs;
  }

  void answered() {
    failures = 0;
  }

  void failed() {
    failures++;
  }

  boolean failing() {
    return failures > 0;
  }

  long pauseMs() {
    long longestMs = Math.max(usualMs, LONGEST_MS);
    // The first failure may be a connection that went stale between two heartbeats.
    int doublings = Math.min(Math.max(0, failures - 1), 20);
    return Math.min(longestMs, usualMs << doublings);
  }
}

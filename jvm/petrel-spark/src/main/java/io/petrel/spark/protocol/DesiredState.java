package io.petrel.spark.protocol;

/**
 * What the controller wants, absolute and idempotent.
 *
 * @param version {@link Heartbeat#VERSION}
 * @param decisionId number of the decision
 * @param executors executors to have, running and starting together
 * @param tier tier of new shuffles
 * @param codec codec of new shuffles
 * @param adviceOnly true when Spark shall go on scaling itself
 */
public record DesiredState(int version, long decisionId, int executors, String tier, String codec, boolean adviceOnly) {

  /** More executors than this in one application are a mistake, not a wish. */
  private static final int MOST_EXECUTORS = 10_000;

  /**
   * Checks what came over the network. No executors at all would stop the job for good, so that is not accepted either.
   *
   * @throws IllegalArgumentException naming the field, its value and what is expected
   */
  public DesiredState {
    if (version != Heartbeat.VERSION) {
      throw new IllegalArgumentException("version " + version + ": expected " + Heartbeat.VERSION);
    }
    if (executors < 1 || executors > MOST_EXECUTORS) {
      throw new IllegalArgumentException("executors " + executors + ": expected 1 to " + MOST_EXECUTORS);
    }
  }
}

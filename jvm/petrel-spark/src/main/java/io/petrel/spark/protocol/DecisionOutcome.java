package io.petrel.spark.protocol;

import com.fasterxml.jackson.annotation.JsonValue;
import java.util.Locale;

/**
 * What became of a decision.
 *
 * @param decisionId number of the decision
 * @param timeMs when that was known, milliseconds since the Unix epoch
 * @param outcome what became of it
 * @param detail in words; may be empty
 */
public record DecisionOutcome(long decisionId, long timeMs, Outcome outcome, String detail) {

  /** What can become of a decision. */
  public enum Outcome {
    /** The executors are asked for, not all of them run yet. */
    REQUESTED,
    /** That many run. */
    MET,
    /** Executors that have to go are still busy. */
    WAITING,
    /** The cluster said no. */
    REFUSED,
    /** Only advice, or Spark decides itself. */
    IGNORED;

    /** The name used on the wire and in the log. */
    @JsonValue
    @Override
    public String toString() {
      return name().toLowerCase(Locale.ROOT);
    }
  }
}

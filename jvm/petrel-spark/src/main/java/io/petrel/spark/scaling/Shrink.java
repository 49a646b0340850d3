package io.petrel.spark.scaling;

/** What may be done to busy executors when there are too many? Idle ones always go. */
public enum Shrink {
  /** Nothing: wait until they are idle. */
  IDLE,
  /** Give them no new tasks; they go when their tasks are done. */
  DECOMMISSION,
  /** End them with their tasks, which Spark then runs again elsewhere. */
  KILL
}

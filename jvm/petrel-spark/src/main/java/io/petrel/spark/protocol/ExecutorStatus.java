package io.petrel.spark.protocol;

/**
 * One executor as the driver sees it.
 *
 * @param id Spark's number of the executor; for one that is only asked for, a number above {@link #FIRST_REQUEST}
 * @param pid its process, which Spark does not tell: always null
 * @param phase phase now
 * @param requestedMs when it was asked for, milliseconds since the Unix epoch
 * @param registeredMs when it registered, or null
 * @param firstTaskMs when it finished its first task, or null
 * @param emulatedDelayS always 0: its start-up is real
 * @param cpuUtilisation CPU used over the last second as a share of its limit, 0 to 1
 * @param host where it runs
 * @param slots tasks that it takes at once
 */
public record ExecutorStatus(
    long id,
    Long pid,
    ExecutorPhase phase,
    long requestedMs,
    Long registeredMs,
    Long firstTaskMs,
    double emulatedDelayS,
    double cpuUtilisation,
    String host,
    int slots) {

  /**
   * Number of the first request. An executor has no number of Spark's before it registers; requests are counted from here,
   * so that the two never meet.
   */
  public static final long FIRST_REQUEST = 1L << 40;
}

package io.petrel.spark.scaling;

/**
 * An executor that may have to go.
 *
 * @param id Spark's name of it
 * @param free true when it runs no task and no running job needs what it holds
 * @param runningTasks tasks that run on it
 * @param registeredMs since when it is there
 */
record Candidate(String id, boolean free, int runningTasks, long registeredMs) {}

package io.petrel.spark.telemetry;

import io.petrel.spark.protocol.TaskFigures;

/**
 * Tasks at one moment.
 *
 * @param pending tasks of running stages that have no slot yet
 * @param running tasks that run
 * @param totals all tasks that ended since the driver started
 */
public record Tasks(int pending, int running, TaskFigures totals) {}

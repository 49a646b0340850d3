package io.petrel.spark.telemetry;

import java.util.Properties;

/**
 * Which micro-batch does a stage belong to?
 *
 * @param queryId identity of the query, the same over restarts
 * @param batchId number of the batch
 */
record BatchKey(String queryId, long batchId) {
  private static final String QUERY_ID = "sql.streaming.queryId";
  private static final String BATCH_ID = "streaming.sql.batchId";

  /** The batch that Spark wrote into the local properties of a stage; null for a stage of no streaming query. */
  static BatchKey of(Properties properties) {
    if (properties == null) {
      return null;
    }
    String queryId = properties.getProperty(QUERY_ID);
    String batchId = properties.getProperty(BATCH_ID);
    return queryId == null || batchId == null ? null : new BatchKey(queryId, Long.parseLong(batchId));
  }
}

package io.petrel.spark.telemetry;

import java.util.UUID;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.streaming.StreamExecution;
import scala.Option;

/** Where does Spark keep the streaming queries that run? Their class is the one whose package differs between Spark 3.5 and 4. */
final class StreamExecutions {
  private StreamExecutions() {}

  /** What runs under this identity in any session of the application; null when nothing does, or not yet. */
  static RunningQuery find(UUID id) {
    Option<SparkSession> session = SparkSession.getDefaultSession();
    if (session.isEmpty()) {
      return null;
    }
    StreamExecution execution = session.get().sharedState().activeStreamingQueries().get(id);
    return execution == null
        ? null
        : new RunningQuery(execution.trigger(), execution.committedOffsets(), execution.latestOffsets());
  }
}

package io.petrel.spark.telemetry;

import java.lang.reflect.Method;
import java.util.UUID;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.connector.read.streaming.Offset;
import org.apache.spark.sql.connector.read.streaming.SparkDataStream;
import org.apache.spark.sql.streaming.Trigger;
import scala.Option;
import scala.collection.immutable.Map;

/** Where does Spark keep the streaming queries that run? By reflection, because their class moved in Spark 4.1. */
final class StreamExecutions {
  private static final ClassValue<Getters> GETTERS =
      new ClassValue<>() {
        @Override
        protected Getters computeValue(Class<?> execution) {
          return new Getters(
              getter(execution, "trigger"), getter(execution, "committedOffsets"), getter(execution, "latestOffsets"));
        }
      };

  private StreamExecutions() {}

  private record Getters(Method trigger, Method committed, Method latest) {}

  /**
   * What runs under this identity in any session of the application; null when nothing does, or not yet.
   *
   * @throws IllegalStateException where this release of Spark keeps them in another way
   */
  static RunningQuery find(UUID id) {
    Option<SparkSession> session = SparkSession.getDefaultSession();
    if (session.isEmpty()) {
      return null;
    }
    Object execution = session.get().sharedState().activeStreamingQueries().get(id);
    return execution == null ? null : ask(execution);
  }

  @SuppressWarnings("unchecked")
  private static RunningQuery ask(Object execution) {
    Getters getters = GETTERS.get(execution.getClass());
    try {
      return new RunningQuery(
          (Trigger) getters.trigger.invoke(execution),
          (Map<SparkDataStream, Offset>) getters.committed.invoke(execution),
          (Map<SparkDataStream, Offset>) getters.latest.invoke(execution));
    } catch (ReflectiveOperationException changed) {
      throw new IllegalStateException("cannot read " + execution.getClass().getName(), changed);
    }
  }

  private static Method getter(Class<?> execution, String name) {
    try {
      return execution.getMethod(name);
    } catch (NoSuchMethodException changed) {
      throw new IllegalStateException(execution.getName() + " has no " + name, changed);
    }
  }
}

package io.petrel.spark.telemetry;

import java.util.Map;
import java.util.TreeMap;
import org.apache.spark.sql.connector.read.streaming.Offset;
import org.apache.spark.sql.connector.read.streaming.SparkDataStream;
import org.apache.spark.sql.execution.streaming.ProcessingTimeTrigger;
import org.apache.spark.sql.streaming.Trigger;
import scala.Option;
import scala.Tuple2;
import scala.collection.Iterator;

/**
 * Where a running query stands at this moment. Spark's progress events tell it only when a batch is over, which under load may
 * be long after a backlog has built up.
 *
 * @param trigger how often it starts a batch
 * @param committed offsets of its sources up to which records are committed
 * @param latest offsets up to which the sources had records when the current batch was planned
 */
record RunningQuery(
    Trigger trigger,
    scala.collection.immutable.Map<SparkDataStream, Offset> committed,
    scala.collection.immutable.Map<SparkDataStream, Offset> latest) {

  /** Records per {@code topic/partition} that wait to be committed. */
  Map<String, Long> lag() {
    Map<String, Long> lag = new TreeMap<>();
    Iterator<Tuple2<SparkDataStream, Offset>> sources = latest.iterator();
    while (sources.hasNext()) {
      Tuple2<SparkDataStream, Offset> source = sources.next();
      Option<Offset> from = committed.get(source._1());
      if (from.isDefined() && from.get() != null && source._2() != null) {
        Lag.between(from.get().json(), source._2().json())
            .forEach((partition, records) -> lag.merge(partition, records, Long::sum));
      }
    }
    return lag;
  }

  /** Milliseconds between the starts of batches; 0 for a query that starts the next one as soon as it can. */
  long triggerMs() {
    return trigger instanceof ProcessingTimeTrigger every ? every.intervalMs() : 0;
  }
}

package io.petrel.spark.telemetry;

import com.fasterxml.jackson.databind.JsonNode;
import io.petrel.spark.protocol.Json;
import java.util.Map;
import java.util.TreeMap;

/** How far is a source behind its log? Offsets are JSON of the source's own; Kafka's are {@code {"topic":{"0":12}}}. */
final class Lag {
  private Lag() {}

  /**
   * Records per {@code topic/partition} between two offsets of a source.
   *
   * @return empty where either is missing or the source has no partitions with numbered records
   */
  static Map<String, Long> between(String committed, String latest) {
    Map<String, Long> lag = new TreeMap<>();
    if (committed == null || latest == null) {
      return lag;
    }
    JsonNode committedTopics = Json.readTree(committed);
    Json.readTree(latest)
        .fields()
        .forEachRemaining(
            topic ->
                topic.getValue()
                    .fields()
                    .forEachRemaining(
                        partition -> {
                          JsonNode from = committedTopics.path(topic.getKey()).path(partition.getKey());
                          long behind = partition.getValue().asLong() - from.asLong();
                          lag.put(topic.getKey() + "/" + partition.getKey(), Math.max(0, behind));
                        }));
    return lag;
  }
}

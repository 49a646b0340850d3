package io.petrel.spark.telemetry;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.petrel.spark.telemetry.Unacknowledged.Sent;
import java.util.List;
import org.junit.jupiter.api.Test;

class UnacknowledgedTest {
  private final Unacknowledged<String> entries = new Unacknowledged<>(3);

  @Test
  void entriesStayUntilTheyAreAcknowledged() {
    entries.add("a");
    assertEquals(List.of("a"), entries.all().entries());
    Sent<String> sent = entries.all();
    entries.add("b");
    entries.acknowledge(sent);
    assertEquals(List.of("b"), entries.all().entries());
  }

  @Test
  void theOldestGoWhenThereAreTooMany() {
    List.of("a", "b", "c", "d").forEach(entries::add);
    assertEquals(List.of("b", "c", "d"), entries.all().entries());
  }

  @Test
  void acknowledgingWhatWasDroppedMeanwhileTakesNothingElse() {
    List.of("a", "b").forEach(entries::add);
    Sent<String> sent = entries.all();
    List.of("c", "d", "e").forEach(entries::add);
    entries.acknowledge(sent);
    assertEquals(List.of("c", "d", "e"), entries.all().entries());
  }

  @Test
  void acknowledgingTwiceTakesNothingElse() {
    entries.add("a");
    Sent<String> sent = entries.all();
    entries.acknowledge(sent);
    entries.add("b");
    entries.acknowledge(sent);
    assertEquals(List.of("b"), entries.all().entries());
  }
}

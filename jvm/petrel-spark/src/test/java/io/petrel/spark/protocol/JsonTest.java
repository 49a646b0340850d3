package io.petrel.spark.protocol;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import io.petrel.spark.protocol.DecisionOutcome.Outcome;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class JsonTest {
  @Test
  void aHeartbeatHasTheFieldsOfTheProtocol() throws IOException {
    Heartbeat heartbeat =
        new Heartbeat(
            Heartbeat.VERSION,
            "ward",
            1_000,
            7,
            2_000,
            List.of(new ExecutorStatus(3, null, ExecutorPhase.RUNNING, 1_100, 1_200L, null, 0.0, 0.5, "10.0.0.1", 2)),
            List.of(
                new BatchReport(
                    "records", 4, 1_900, 50, 0, 1, 2, 3, 250.0, 80.0, 90.0, 6, 2, Map.of("addBatch", 120L), 130.0, 9, 8,
                    new long[] {50})),
            12,
            1,
            2,
            500,
            1_000,
            1.5,
            0.2,
            10.0,
            41,
            1_500L,
            6.5,
            "spark 3.5.7",
            EngineMode.STEERED,
            List.of(new QueryStatus("records", Double.NaN, 40.0, Map.of("raw/0", 12L), 5, 600, null, "observed")),
            new TaskFigures(6, 1, 90.0, 80.0, 4.0, 1, 2, 3, 5.0),
            List.of(new DecisionOutcome(41, 1_950, Outcome.MET, "")));
    String expected =
        """
        {"version":2,"job":"ward","attempt":1000,"sequence":7,"time_ms":2000,
         "executors":[{"id":3,"pid":null,"phase":"running","requested_ms":1100,"registered_ms":1200,"first_task_ms":null,
           "emulated_delay_s":0.0,"cpu_utilisation":0.5,"host":"10.0.0.1","slots":2}],
         "batches":[{"query":"records","batch":4,"committed_ms":1900,"records":50,"duplicates":0,"dead_letter":1,"late":2,
           "alerts":3,"duration_ms":250.0,"task_cpu_ms":80.0,"task_run_ms":90.0,"tasks":6,"executors":2,
           "parts_ms":{"addBatch":120},"overhead_ms":130.0,"input_bytes":9,"shuffle_bytes":8,"latency_counts":[50]}],
         "lag_records":12,"tasks_pending":1,"tasks_running":2,"committed_records":500,"trigger_ms":1000.0,
         "executor_memory_gb":1.5,"executor_cpu":0.2,"startup_delay_s":10.0,"applied_decision":41,"watermark_ms":1500,
         "executor_seconds":6.5,"engine":"spark 3.5.7","mode":"steered",
         "queries":[{"query":"records","input_rate":0.0,"processed_rate":40.0,"lag":{"raw/0":12},"state_rows":5,
           "state_bytes":600,"watermark_delay_ms":null,"latency_source":"observed"}],
         "tasks":{"finished":6,"failed":1,"run_ms":90.0,"cpu_ms":80.0,"gc_ms":4.0,"spill_bytes":1,
           "shuffle_written_bytes":2,"shuffle_read_bytes":3,"fetch_wait_ms":5.0},
         "outcomes":[{"decision_id":41,"time_ms":1950,"outcome":"met","detail":""}]}
        """;
    ObjectMapper mapper = new ObjectMapper();
    assertEquals(mapper.readTree(expected), mapper.readTree(Json.write(heartbeat)));
  }

  @Test
  void aReplyMayHaveFieldsThatAreNotKnown() throws IOException {
    DesiredState desired =
        read("{\"version\":2,\"decision_id\":9,\"executors\":4,\"tier\":\"nvme\",\"codec\":\"zstd\",\"mood\":\"calm\"}");
    assertEquals(new DesiredState(2, 9, 4, "nvme", "zstd", false), desired);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "{\"version\":3,\"decision_id\":9,\"executors\":4} | version 3: expected 2",
        "{\"version\":2,\"decision_id\":9} | executors 0: expected 1 to 10000",
        "{\"version\":2,\"executors\":-1} | executors -1: expected 1 to 10000",
        "{\"version\":2,\"executors\":10001} | executors 10001: expected 1 to 10000",
        "{\"version\":2,\"executors\":4} {} | Trailing token",
        "{\"version\":2,\"executors\":\"many\"} | not a valid `int` value",
        "<html>welcome</html> | Unexpected character",
        "null | null",
        "'' | No content"
      })
  void aReplyThatIsNoDesiredStateIsRefusedWithTheReason(String reply, String reason) {
    IOException refused = assertThrows(IOException.class, () -> read(reply));
    assertTrue(refused.getMessage().contains(reason), refused.getMessage());
  }

  private static DesiredState read(String reply) throws IOException {
    return Json.readDesiredState(reply.getBytes(StandardCharsets.UTF_8));
  }
}

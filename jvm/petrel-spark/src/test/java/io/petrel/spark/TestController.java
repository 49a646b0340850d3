package io.petrel.spark;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayDeque;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;

/** A controller that wants what the test wants, and remembers what it heard. */
final class TestController {
  private static final Duration PATIENCE = Duration.ofSeconds(180);

  private final ObjectMapper mapper = new ObjectMapper();
  private final ArrayDeque<JsonNode> heard = new ArrayDeque<>();
  private final HttpServer server;
  private int decision;
  private int executors = 1;
  private boolean adviceOnly;
  private int status = 200;

  TestController() throws IOException {
    server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.createContext("/api/v1/heartbeat", this::answer);
    server.start();
  }

  void stop() {
    server.stop(0);
  }

  String url() {
    return "http://" + server.getAddress().getHostString() + ":" + server.getAddress().getPort();
  }

  synchronized void want(int wanted, boolean onlyAdvice) {
    decision++;
    executors = wanted;
    adviceOnly = onlyAdvice;
  }

  /** From now on heartbeats are answered with this status. */
  synchronized void answerWith(int newStatus) {
    status = newStatus;
  }

  /** Waits for a heartbeat, after the one that was waited for last, that is what the test expects. */
  synchronized JsonNode await(String what, Predicate<JsonNode> expected) throws InterruptedException {
    Instant deadline = Instant.now().plus(PATIENCE);
    JsonNode last = null;
    while (true) {
      while (!heard.isEmpty()) {
        last = heard.removeFirst();
        if (expected.test(last)) {
          return last;
        }
      }
      long leftMs = Duration.between(Instant.now(), deadline).toMillis();
      if (leftMs <= 0) {
        throw new AssertionError("no heartbeat with " + what + " in " + PATIENCE.toSeconds() + " s; the last: " + last);
      }
      TimeUnit.MILLISECONDS.timedWait(this, leftMs);
    }
  }

  private synchronized void answer(HttpExchange exchange) throws IOException {
    try (exchange) {
      heard.add(mapper.readTree(exchange.getRequestBody()));
      notifyAll();
      byte[] reply = mapper.writeValueAsBytes(
          mapper.createObjectNode()
              .put("version", 2)
              .put("decision_id", decision)
              .put("executors", executors)
              .put("tier", "memory")
              .put("codec", "lz4")
              .put("advice_only", adviceOnly));
      byte[] body = status == 200 ? reply : "no".getBytes(StandardCharsets.UTF_8);
      exchange.sendResponseHeaders(status, body.length);
      exchange.getResponseBody().write(body);
    }
  }
}

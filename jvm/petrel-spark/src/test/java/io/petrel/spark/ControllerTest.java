package io.petrel.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.petrel.spark.protocol.DesiredState;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class ControllerTest {
  private static final String DESIRED =
      "{\"version\":2,\"decision_id\":9,\"executors\":4,\"tier\":\"memory\",\"codec\":\"lz4\",\"advice_only\":true}";

  private final ExecutorService threads = Executors.newCachedThreadPool(new DaemonThreads("test"));
  private final CountDownLatch end = new CountDownLatch(1);
  private HttpServer server;

  @BeforeEach
  void start() throws IOException {
    server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.setExecutor(threads);
    server.start();
  }

  @AfterEach
  void stop() {
    end.countDown();
    server.stop(0);
    threads.shutdownNow();
  }

  @Test
  void aHeartbeatWithItsTokenIsAnsweredWithDesiredState() throws Exception {
    StringBuffer heard = new StringBuffer();
    answer(
        exchange -> {
          heard.append(exchange.getRequestMethod()).append(' ');
          heard.append(exchange.getRequestHeaders().getFirst("Authorization")).append(' ');
          heard.append(new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8));
          reply(exchange, 200, DESIRED);
        });
    assertEquals(new DesiredState(2, 9, 4, "memory", "lz4", true), post(10_000));
    assertEquals("POST Bearer secret {}", heard.toString());
  }

  @Test
  void aRefusalIsToldInTheControllersWords() {
    answer(exchange -> reply(exchange, 401, "token: not the one of job 'ward'\n"));
    assertEquals("answered 401: token: not the one of job 'ward'", refusal(10_000));
  }

  @Test
  void longWordsAreCut() {
    answer(exchange -> reply(exchange, 500, "x".repeat(5_000)));
    assertEquals("answered 500: " + "x".repeat(300) + "...", refusal(10_000));
  }

  @Test
  void garbageIsRefused() {
    answer(exchange -> reply(exchange, 200, "<html>"));
    assertTrue(refusal(10_000).startsWith("answered with what is no desired state: "));
  }

  @Test
  void aReplyThatNeverEndsIsCut() {
    answer(exchange -> reply(exchange, 200, " ".repeat(1_000_000)));
    assertEquals("was not reached: the reply has more than 65536 bytes", refusal(10_000));
  }

  @Test
  void aRedirectIsNotFollowed() {
    answer(
        exchange -> {
          exchange.getResponseHeaders().add("Location", "/elsewhere");
          reply(exchange, 307, "");
        });
    assertEquals("answered 307: ", refusal(10_000));
  }

  @Test
  void aControllerThatDoesNotAnswerIsNotWaitedFor() {
    answer(exchange -> end.await());
    assertEquals("did not answer within 200 ms", refusal(200));
  }

  @Test
  void aControllerThatStopsInTheMiddleOfItsAnswerIsNotWaitedFor() {
    answer(
        exchange -> {
          exchange.sendResponseHeaders(200, 100);
          exchange.getResponseBody().write('{');
          exchange.getResponseBody().flush();
          end.await();
        });
    assertEquals("did not answer within 200 ms", refusal(200));
  }

  @Test
  void aControllerThatIsNotThereIsNotReached() {
    server.stop(0);
    assertEquals("refused the connection", refusal(10_000));
  }

  private interface Answer {
    void to(HttpExchange exchange) throws IOException, InterruptedException;
  }

  private void answer(Answer answer) {
    server.createContext(
        "/",
        exchange -> {
          try (exchange) {
            answer.to(exchange);
          } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
          }
        });
  }

  private static void reply(HttpExchange exchange, int status, String text) throws IOException {
    byte[] body = text.getBytes(StandardCharsets.UTF_8);
    exchange.sendResponseHeaders(status, body.length == 0 ? -1 : body.length);
    exchange.getResponseBody().write(body);
  }

  private String refusal(int timeoutMs) {
    return assertThrows(ControllerException.class, () -> post(timeoutMs)).getMessage();
  }

  private DesiredState post(int timeoutMs) throws IOException {
    InetSocketAddress address = server.getAddress();
    URL url = new URL("http", address.getHostString(), address.getPort(), "/api/v1/heartbeat");
    return new Controller(url, "secret", timeoutMs).post("{}".getBytes(StandardCharsets.UTF_8));
  }
}

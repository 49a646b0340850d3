package io.petrel.spark;

import io.petrel.spark.protocol.DesiredState;
import io.petrel.spark.protocol.Json;
import java.io.IOException;
import java.net.ConnectException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** The controller as the driver sees it: a heartbeat goes in, desired state comes out, or the reason why not. */
final class Controller {
  /** Enough for any desired state and for an error of any sense. */
  private static final int MOST_REPLY_BYTES = 64 * 1024;

  private static final int MOST_WORDS = 300;
  private static final int OK = 200;

  private final HttpClient http;
  private final HttpRequest.Builder request;
  private final long timeoutMs;

  /**
   * The controller at {@code address}.
   *
   * @param token sent as bearer token, or null
   * @param timeoutMs time for connection and whole reply
   * @param threads runs what the HTTP client has to do besides waiting
   */
  Controller(URI address, String token, long timeoutMs, Executor threads) {
    this.timeoutMs = timeoutMs;
    // Redirects stay off: they would carry the token to another place.
    this.http =
        HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1)
            .connectTimeout(Duration.ofMillis(timeoutMs))
            .executor(threads)
            .build();
    this.request = HttpRequest.newBuilder(address).header("Content-Type", "application/json");
    if (token != null) {
      request.header("Authorization", "Bearer " + token);
    }
  }

  /** Posts a heartbeat and waits for the answer. */
  DesiredState post(byte[] heartbeat) throws ControllerException, InterruptedException {
    HttpRequest post = request.copy().POST(HttpRequest.BodyPublishers.ofByteArray(heartbeat)).build();
    CompletableFuture<HttpResponse<byte[]>> reply =
        http.sendAsync(post, unused -> new LimitedBody(MOST_REPLY_BYTES));
    HttpResponse<byte[]> response;
    try {
      // The request's own time limit ends with the headers; this one holds for the body too.
      response = reply.get(timeoutMs, TimeUnit.MILLISECONDS);
    } catch (TimeoutException slow) {
      throw new ControllerException("did not answer within " + timeoutMs + " ms");
    } catch (ExecutionException failed) {
      throw new ControllerException("not reached: " + reason(failed.getCause()));
    } finally {
      reply.cancel(true);
    }
    if (response.statusCode() != OK) {
      throw new ControllerException("answered " + response.statusCode() + ": " + words(response.body()));
    }
    try {
      return Json.readDesiredState(response.body());
    } catch (IOException garbage) {
      throw new ControllerException("answered with what is no desired state: " + garbage.getMessage());
    }
  }

  private static String reason(Throwable failure) {
    if (failure instanceof ConnectException) {
      return "connection refused";
    }
    String message = failure.getMessage();
    return message == null ? failure.getClass().getSimpleName() : message;
  }

  private static String words(byte[] body) {
    String text = new String(body, StandardCharsets.UTF_8).strip();
    return text.length() > MOST_WORDS ? text.substring(0, MOST_WORDS) + "..." : text;
  }
}
